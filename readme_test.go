package everytick_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A fence is a block of Go code in README.md or a page of docs. Blocks that begin with "```go before" have code of
// other libraries and are skipped.
type fence struct {
	page string
	line int // of the first line of code
	code string
	// from is "path/of/a_test.go Function" if <!-- example: path/of/a_test.go Function --> precedes the block.
	from string
}

func fences(t *testing.T) (all []fence) {
	t.Helper()
	pages, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	for _, page := range append(pages, "README.md") {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		marker := regexp.MustCompile(`^<!-- example: (\S+ \S+) -->$`)
		var code *fence
		from := ""
		for i, line := range strings.Split(string(text), "\n") {
			switch {
			case code != nil && line == "```":
				all, code, from = append(all, *code), nil, ""
			case code != nil:
				code.code += line + "\n"
			case line == "```go":
				code = &fence{page: page, line: i + 2, from: from}
			case strings.HasPrefix(strings.TrimSpace(line), "```go"):
				require.Equal(t, "```go before", line, "%s:%d: this block would not be checked", page, i+1)
			case marker.MatchString(line):
				from = marker.FindStringSubmatch(line)[1]
			case line != "":
				from = ""
			}
		}
		require.Nil(t, code, "%s: a block has no end", page)
	}
	return all
}

// Blocks that name an example or test are a copy of it. All others compile.
func TestFences_AreCopiesOrCompile(t *testing.T) {
	t.Parallel()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	root, err := filepath.Abs(".")
	require.NoError(t, err)
	dir := t.TempDir()
	write := func(pkg, file, text string) {
		real := filepath.Join(dir, pkg+"_"+file)
		require.NoError(t, os.WriteFile(real, []byte(text), 0o600))
		overlay.Replace[filepath.Join(root, "snippets", pkg, file)] = real
	}
	copied := map[string]bool{}
	for _, f := range fences(t) {
		if f.from != "" {
			requireCopyOf(t, f)
			copied[f.from] = true
			continue
		}
		pkg := fmt.Sprintf("%s_%d", strings.ToLower(strings.TrimSuffix(filepath.Base(f.page), ".md")), f.line)
		write(pkg, "snippet.go", f.file(t, root))
		if !strings.HasPrefix(f.code, "package ") {
			write(pkg, "given.go", given)
		}
	}
	require.Contains(t, copied, "adapters/river/example_test.go Example", "the first example of the README")

	config := filepath.Join(dir, "overlay.json")
	text, err := json.Marshal(overlay)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(config, text, 0o600))
	out, err := exec.CommandContext(t.Context(), "go", "build", "-overlay", config, "./snippets/...").CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// requireCopyOf requires that a fence equals the function that it names, or its body.
func requireCopyOf(t *testing.T, f fence) {
	t.Helper()
	path, name, _ := strings.Cut(f.from, " ")
	source, err := os.ReadFile(path)
	require.NoError(t, err, "%s:%d", f.page, f.line)
	file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.ParseComments)
	require.NoError(t, err)
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Name.Name != name {
			continue
		}
		want := source[fn.Pos()-1 : fn.End()-1]
		if !strings.HasPrefix(f.code, "func "+name+"(") {
			want = source[fn.Body.Lbrace : fn.Body.Rbrace-1]
		}
		require.Equal(t, formatted(t, string(want)), formatted(t, f.code), "%s:%d differs from %s in %s", f.page, f.line, name, path)
		return
	}
	require.Fail(t, "no such function", "%s:%d: %s in %s", f.page, f.line, name, path)
}

// formatted returns formatted code, without the output comment of an example.
func formatted(t *testing.T, code string) string {
	t.Helper()
	code, _, _ = strings.Cut(code, "// Output:")
	out, err := format.Source([]byte(strings.TrimSpace(code)))
	require.NoError(t, err)
	return string(out)
}

// file returns the fence as a Go file. A fence may have a whole file, declarations or statements.
func (f fence) file(t *testing.T, root string) string {
	t.Helper()
	at := fmt.Sprintf("//line %s:%d\n", filepath.Join(root, f.page), f.line)
	if strings.HasPrefix(f.code, "package ") {
		return at + f.code
	}
	code := at + f.code
	file, err := parser.ParseFile(token.NewFileSet(), "", "package snippet\n"+code, 0)
	if err != nil {
		code = "func _() {\n" + code + "}\n"
		file, err = parser.ParseFile(token.NewFileSet(), "", "package snippet\n"+code, 0)
	}
	require.NoError(t, err, "%s:%d", f.page, f.line)
	if len(file.Imports) > 0 {
		return "package snippet\n" + code
	}
	imports := map[string]bool{}
	for _, ident := range file.Unresolved {
		if path := packages[ident.Name]; path != "" {
			imports[ident.Name+" "+fmt.Sprintf("%q", path)] = true
		}
	}
	var b strings.Builder
	b.WriteString("package snippet\n")
	for spec := range imports {
		b.WriteString("import " + spec + "\n")
	}
	return b.String() + code
}

// packages maps the package names in fences without imports to import paths.
var packages = map[string]string{
	"context": "context", "errors": "errors", "exec": "os/exec", "fmt": "fmt", "http": "net/http", "os": "os", "regexp": "regexp",
	"signal": "os/signal", "slog": "log/slog", "strings": "strings", "synctest": "testing/synctest", "syscall": "syscall",
	"testing": "testing", "time": "time",
	"pgx": "github.com/jackc/pgx/v5", "pgxpool": "github.com/jackc/pgx/v5/pgxpool",
	"require": "github.com/stretchr/testify/require", "riverqueue": "github.com/riverqueue/river",
	"jobs": module + "jobs", "jobstest": module + "jobs/jobstest", "providertest": module + "jobs/providertest", "jobshttp": module + "jobs/jobshttp",
	"memory": module + "adapters/memory", "river": module + "adapters/river", "jobsotel": module + "adapters/otel",
}

// given declares names that fences use but do not declare.
const given = `package snippet

import (
	"context"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

var (
	ctx       context.Context
	pool      *pgxpool.Pool
	tx        pgx.Tx
	scheduler *river.Scheduler
	mux       *http.ServeMux
	server    *http.Server

	retain, sync jobs.Handler

	requireOperator func(*http.Request) error
)

type Scheduler struct{ *river.Scheduler }

func check(error) {}
`
