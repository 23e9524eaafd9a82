package everytick_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/everytick/everytick/"

// TestImportRules keeps the architecture: who may depend on whom, through however
// many packages.
func TestImportRules(t *testing.T) {
	t.Parallel()
	const (
		river   = "github.com/riverqueue"
		testify = "github.com/stretchr/testify"
		tint    = "github.com/lmittmann/tint"

		chromedp = "github.com/chromedp"
	)
	for _, rule := range []struct {
		packages string
		never    []string
	}{
		{"./jobs", []string{river, testify, tint, module + "adapters", module + "modules", module + "migrations", module + "internal"}},
		{"./jobs/provider", []string{river, testify, tint, module + "adapters", module + "modules", module + "migrations", module + "internal"}},
		{"./jobs/jobstest", []string{river, tint, module + "adapters", module + "modules", module + "migrations", module + "internal"}},
		{"./jobs/jobshttp", []string{river, testify, tint, module + "adapters", module + "modules", module + "migrations", module + "internal"}},
		{"./adapters/memory", []string{river, testify, tint, module + "adapters/river", module + "modules", module + "migrations", module + "internal"}},
		{"./adapters/river", []string{testify, tint, module + "adapters/memory", module + "modules", module + "migrations", module + "internal/devdb"}},
		{"./internal/batch", []string{river, testify, tint, module + "adapters", module + "jobs", "github.com/jackc/pgx"}},
		{"./adapters/otel", []string{river, testify, tint, "go.opentelemetry.io/otel/sdk", module + "adapters/memory", module + "adapters/river", module + "modules", module + "migrations", module + "internal"}},
		{"./modules/audit", []string{river, testify, tint, module + "adapters", module + "modules/email", module + "modules/notifs", module + "migrations", module + "internal"}},
		{"./modules/email", []string{river, testify, tint, module + "adapters", module + "modules/audit", module + "modules/notifs", module + "migrations", module + "internal"}},
		{"./modules/notifs", []string{river, testify, tint, module + "adapters", module + "modules/audit", module + "modules/email", module + "migrations", module + "internal"}},
		{"./migrations", []string{testify, tint, module + "jobs", module + "adapters", module + "modules", module + "internal"}},
		{"./cmd/demo", []string{testify, chromedp}},
	} {
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

// Who does not ask for telemetry does not compile it: only the demo has both kinds.
func TestTelemetryIsOptional(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}} {{join .Deps " "}}`, "./...").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		name, deps, _ := strings.Cut(line, " ")
		for dep := range strings.FieldsSeq(deps) {
			otel := strings.HasPrefix(dep, "go.opentelemetry.io/") || dep == module+"adapters/otel"
			prometheus := strings.HasPrefix(dep, "github.com/prometheus/")
			if name != module+"cmd/demo" && (prometheus || otel && name != module+"adapters/otel") {
				t.Errorf("%s depends on %s, which it must not", name, dep)
			}
		}
	}
}

// Nor do they share the browser that its test drives.
func TestNobodyImportsTheDemo(t *testing.T) {
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
