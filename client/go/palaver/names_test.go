package palaver

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
)

func TestEveryNameOfTheContractHasAnAlias(t *testing.T) {
	expected := map[string]string{}
	for _, file := range []protoreflect.FileDescriptor{
		palaverv1.File_palaver_v1_assistant_proto, palaverv1.File_palaver_v1_assistant_service_proto,
	} {
		for i := range file.Messages().Len() {
			message := file.Messages().Get(i)
			name := string(message.Name())
			expected[name] = name
			for j := range message.Fields().Len() {
				field := message.Fields().Get(j)
				union := field.ContainingOneof()
				// Events are delivered without their wrapper.
				if union == nil || union.IsSynthetic() || name == "PostUserQueryResponse" {
					continue
				}
				choice := camelCase(string(field.Name()))
				expected[name+choice] = name + "_" + choice
			}
		}
		for i := range file.Enums().Len() {
			enum := file.Enums().Get(i)
			name := string(enum.Name())
			expected[name] = name
			for j := range enum.Values().Len() {
				value := string(enum.Values().Get(j).Name())
				expected[camelCase(value)] = name + "_" + value
			}
		}
	}
	compare(t, expected, declarations(t, "names.go"))
}

func TestEveryReasonOfTheContractHasAConstant(t *testing.T) {
	expected := map[string]string{}
	values := palaverv1.ErrorReason(0).Descriptor().Values()
	for i := range values.Len() {
		reason := strings.TrimPrefix(string(values.Get(i).Name()), "ERROR_REASON_")
		if reason != "UNSPECIFIED" {
			expected["Reason"+strings.ReplaceAll(camelCase(reason), "Id", "ID")] = reason
		}
	}
	compare(t, expected, declarations(t, "reasons.go"))
}

func camelCase(name string) string {
	var result strings.Builder
	for word := range strings.SplitSeq(name, "_") {
		result.WriteString(strings.ToUpper(word[:1]) + strings.ToLower(word[1:]))
	}
	return result.String()
}

func compare(t *testing.T, expected, got map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(expected)) {
		if got[name] != expected[name] {
			t.Errorf("%s is %q, not %q", name, got[name], expected[name])
		}
	}
	for name := range got {
		if _, known := expected[name]; !known {
			t.Errorf("%s is not a name of the contract", name)
		}
	}
}

// declarations returns the aliases and constants that a file declares, with their names in palaverv1 or their text.
func declarations(t *testing.T, name string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	result := map[string]string{}
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.TypeSpec:
			if node.Assign.IsValid() { // an alias
				result[node.Name.Name] = original(node.Type)
			}
		case *ast.ValueSpec:
			result[node.Names[0].Name] = original(node.Values[0])
		}
		return true
	})
	return result
}

func original(expression ast.Expr) string {
	switch expression := expression.(type) {
	case *ast.SelectorExpr:
		return expression.Sel.Name
	case *ast.BasicLit:
		return strings.Trim(expression.Value, `"`)
	default:
		return "?"
	}
}
