// Command promql evaluates PromQL expressions over metrics pages, with the parser and the engine of Prometheus.
//
// It reads an [input] as JSON from standard input, and writes a list of [evaluation] to standard output. It fails if a
// page or an expression is invalid.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
)

// start is the time of the first page. It is fixed, so that the same input always has the same output.
var start = time.Unix(1_000_000_000, 0)

type input struct {
	// Pages are scrapes of one server, in the order of their time.
	Pages []page `json:"pages"`
	// Target has the labels that the scraper adds to every series, such as job and instance.
	Target map[string]string `json:"target"`
	// Expressions are evaluated at the time of the last page.
	Expressions []string `json:"expressions"`
}

type page struct {
	// Seconds is the time of the scrape after that of the first page.
	Seconds float64 `json:"seconds"`
	// Text is the page in the Prometheus text format.
	Text string `json:"text"`
}

type evaluation struct {
	Selectors []selector `json:"selectors"`
	// Groupings are the labels of aggregations and of vector matching.
	Groupings []string `json:"groupings"`
	Result    []sample `json:"result"`
}

// A selector is a metric that an expression reads, with the labels that it matches.
type selector struct {
	Metric string   `json:"metric"`
	Labels []string `json:"labels"`
}

type sample struct {
	Labels map[string]string `json:"labels"`
	// Value is text, because JSON has no NaN and no infinity.
	Value string `json:"value"`
}

func main() {
	if err := run(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "promql:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, in io.Reader, out io.Writer) error {
	var asked input
	if err := json.NewDecoder(in).Decode(&asked); err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "promql")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	storage, err := tsdb.Open(folder, nil, nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		return err
	}
	defer storage.Close()
	end, err := load(ctx, storage, asked)
	if err != nil {
		return err
	}
	parse := parser.NewParser(parser.Options{})
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1_000_000, Timeout: time.Minute, Parser: parse})
	evaluations := make([]evaluation, len(asked.Expressions))
	for i, text := range asked.Expressions {
		expression, err := parse.ParseExpr(text)
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		evaluations[i].Selectors, evaluations[i].Groupings = names(expression)
		if evaluations[i].Result, err = evaluate(ctx, engine, storage, text, end); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
	}
	return json.NewEncoder(out).Encode(evaluations)
}

// load stores the pages as scrapes, and returns the time of the last one. A counter or histogram that an earlier page
// lacks is zero there, as if the server told when the series began.
func load(ctx context.Context, storage *tsdb.DB, asked input) (time.Time, error) {
	var end time.Time
	var last int64
	known := map[uint64]bool{}
	for i, page := range asked.Pages {
		end = start.Add(time.Duration(page.Seconds * float64(time.Second)))
		series, err := parsePage(page.Text, asked.Target)
		if err != nil {
			return end, err
		}
		appender := storage.Appender(ctx)
		for _, s := range series {
			if i > 0 && s.counts && !known[s.labels.Hash()] {
				if _, err := appender.Append(0, s.labels, last, 0); err != nil {
					return end, fmt.Errorf("%s: %w", s.labels, err)
				}
			}
			known[s.labels.Hash()] = true
			if _, err := appender.Append(0, s.labels, end.UnixMilli(), s.value); err != nil {
				return end, fmt.Errorf("%s: %w", s.labels, err)
			}
		}
		if err := appender.Commit(); err != nil {
			return end, err
		}
		last = end.UnixMilli()
	}
	return end, nil
}

// A series is one line of a page.
type series struct {
	labels labels.Labels
	value  float64
	counts bool
}

// parsePage returns the series of a page and the metric `up` of its scrape.
func parsePage(text string, target map[string]string) ([]series, error) {
	add := func(found labels.Labels) labels.Labels {
		builder := labels.NewBuilder(found)
		for name, value := range target {
			builder.Set(name, value)
		}
		return builder.Labels()
	}
	found := []series{{labels: add(labels.FromStrings(model.MetricNameLabel, "up")), value: 1}}
	lines, err := textparse.New([]byte(text), "text/plain", labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		return nil, err
	}
	var kind model.MetricType
	for {
		entry, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		switch entry {
		case textparse.EntryType:
			_, kind = lines.Type()
		case textparse.EntrySeries:
			_, _, value := lines.Series()
			var parsed labels.Labels
			lines.Labels(&parsed)
			counts := kind == model.MetricTypeCounter || kind == model.MetricTypeHistogram
			found = append(found, series{labels: add(parsed), value: value, counts: counts})
		}
	}
}

// names returns the metrics and labels that an expression names.
func names(expression parser.Expr) ([]selector, []string) {
	var selectors []selector
	var groupings []string
	parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			found := selector{Labels: []string{}}
			for _, matcher := range node.LabelMatchers {
				if matcher.Name == model.MetricNameLabel {
					found.Metric = matcher.Value
				} else {
					found.Labels = append(found.Labels, matcher.Name)
				}
			}
			selectors = append(selectors, found)
		case *parser.AggregateExpr:
			groupings = append(groupings, node.Grouping...)
		case *parser.BinaryExpr:
			if node.VectorMatching != nil {
				groupings = append(groupings, node.VectorMatching.MatchingLabels...)
				groupings = append(groupings, node.VectorMatching.Include...)
			}
		}
		return nil
	})
	slices.Sort(groupings)
	return selectors, slices.Compact(groupings)
}

func evaluate(ctx context.Context, engine *promql.Engine, storage *tsdb.DB, text string, at time.Time) ([]sample, error) {
	query, err := engine.NewInstantQuery(ctx, storage, nil, text, at)
	if err != nil {
		return nil, err
	}
	defer query.Close()
	answer := query.Exec(ctx)
	if answer.Err != nil {
		return nil, answer.Err
	}
	switch value := answer.Value.(type) {
	case promql.Vector:
		result := make([]sample, 0, len(value))
		for _, item := range value {
			result = append(result, sample{Labels: item.Metric.Map(), Value: format(item.F)})
		}
		return result, nil
	case promql.Scalar:
		return []sample{{Labels: map[string]string{}, Value: format(value.V)}}, nil
	default:
		return nil, fmt.Errorf("the result is a %s, not a vector or a scalar", answer.Value.Type())
	}
}

func format(value float64) string { return strconv.FormatFloat(value, 'g', -1, 64) }
