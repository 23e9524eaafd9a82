package everytick_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/everytick/everytick/"

// TestImportRules checks the import rules, including indirect dependencies.
func TestImportRules(t *testing.T) {
	t.Parallel()
	const (
		river    = "github.com/riverqueue"
		testify  = "github.com/stretchr/testify"
		tint     = "github.com/lmittmann/tint"
		chromedp = "github.com/chromedp"

		adapters, modules, migrations = module + "adapters", module + "modules", module + "migrations"
		internal, provider            = module + "internal", module + "jobs/provider"
	)
	portable := []string{river, tint, adapters, modules, migrations, internal}
	type rule struct {
		packages string
		never    []string
	}
	rules := []rule{
		{"./jobs", slices.Concat(portable, []string{testify, module + "jobs/provider"})},
		{"./jobs/provider", slices.Concat(portable, []string{testify})},
		{"./jobs/providertest", portable},
		{"./jobs/jobstest", slices.Concat(portable, []string{testify, provider})},
		{"./jobs/jobshttp", slices.Concat(portable, []string{testify, provider})},
		{"./jobs/jobsping", slices.Concat(portable, []string{testify, provider})},
		{"./adapters/memory", []string{river, internal}},
		{"./adapters/river", []string{internal + "/devdb"}},
		{"./adapters/otel", []string{river, "go.opentelemetry.io/otel/sdk", internal, provider}},
		{"./adapters/prometheus", []string{river, internal, provider}},
		{"./internal/batch", []string{river, testify, adapters, module + "jobs", "github.com/jackc/pgx"}},
		{"./migrations", []string{river, testify, tint, module + "jobs", adapters, modules, internal}},
		{"./cmd/demo", []string{testify, chromedp}},
	}
	for _, name := range []string{"memory", "river", "otel", "prometheus"} {
		never := append(others(adapters, name, "memory", "river", "otel", "prometheus"), testify, tint, modules, migrations)
		rules = append(rules, rule{"./adapters/" + name, never})
	}
	for _, name := range []string{"audit", "email", "notifs"} {
		never := append(others(modules, name, "audit", "email", "notifs"), river, testify, tint, adapters, migrations, internal, provider)
		rules = append(rules, rule{"./modules/" + name, never})
	}
	// Only main programs choose whether to embed the time zone database.
	for _, packages := range []string{"./jobs/...", "./adapters/...", "./modules/...", "./migrations", "./internal/batch"} {
		rules = append(rules, rule{packages, []string{"time/tzdata"}})
	}
	for _, rule := range rules {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", rule.packages).Output()
		require.NoError(t, err, "go list %s", rule.packages)
		for dep := range strings.FieldsSeq(string(out)) {
			for _, never := range rule.never {
				if dep == never || strings.HasPrefix(dep, never+"/") {
					t.Errorf("%s depends on %s, which it must not", rule.packages, dep)
				}
			}
		}
	}
}

// others returns the packages in dir except the named one.
func others(dir, name string, all ...string) (paths []string) {
	for _, other := range all {
		if other != name {
			paths = append(paths, dir+"/"+other)
		}
	}
	return paths
}

// A program that does not import telemetry does not compile it. Only the demo has both kinds.
func TestImportRules_TelemetryIsOptional(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}} {{join .Deps " "}}`, "./...").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		name, deps, _ := strings.Cut(line, " ")
		for dep := range strings.FieldsSeq(deps) {
			otel := strings.HasPrefix(dep, "go.opentelemetry.io/") || dep == module+"adapters/otel"
			prometheus := strings.HasPrefix(dep, "github.com/prometheus/") || dep == module+"adapters/prometheus"
			if name != module+"cmd/demo" && (prometheus && name != module+"adapters/prometheus" || otel && name != module+"adapters/otel") {
				t.Errorf("%s depends on %s, which it must not", name, dep)
			}
		}
	}
}

// Only the demo's test uses a browser.
func TestImportRules_DemoIsNotImported(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}}: {{join .Imports " "}} {{join .TestImports " "}} {{join .XTestImports " "}}`, "./...").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		name, imports, _ := strings.Cut(line, ":")
		require.NotContains(t, imports, module+"cmd/", "in %s", line)
		if name != module+"cmd/demo" {
			require.NotContains(t, imports, "github.com/chromedp/", "in %s", line)
		}
	}
}
