// Command servicemonitor decodes a ServiceMonitor from standard input with the types of the Prometheus Operator, and fails
// on a field that they don't have. The schemas of Kubernetes itself know no custom resources.
package main

import (
	"fmt"
	"io"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "servicemonitor:", err)
		os.Exit(1)
	}
}

func run(in io.Reader) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	return yaml.UnmarshalStrict(text, &monitoring.ServiceMonitor{})
}
