package everytick_test

import (
	"cmp"
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

// A fence is a block of Go code in README.md or another page.
type fence struct {
	page string
	line int // of the first line of code
	code string
	// before reports whether it is code of another library: "```go before".
	before bool
	// from is "path/of/a_test.go Name…" if <!-- example: path/of/a_test.go Name… --> precedes the block: a file, and the
	// declarations of it that the block shows.
	from string
}

// pages returns the pages at the root and in docs.
func pages(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	root, err := filepath.Glob("*.md")
	require.NoError(t, err)
	return append(docs, root...)
}

func fences(t *testing.T) (all []fence) {
	t.Helper()
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		marker := regexp.MustCompile(`^<!-- example: (\S+(?: \S+)+) -->$`)
		var code *fence
		from := ""
		for i, line := range strings.Split(string(text), "\n") {
			switch {
			case code != nil && line == "```":
				all, code, from = append(all, *code), nil, ""
			case code != nil:
				code.code += line + "\n"
			case line == "```go", line == "```go before":
				code = &fence{page: page, line: i + 2, from: from, before: line != "```go"}
			case strings.HasPrefix(strings.TrimSpace(line), "```go"):
				require.Fail(t, "this block would not be checked", "%s:%d", page, i+1)
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
		text := f.file(t, root)
		switch {
		case text == "":
			continue
		case f.before:
			write(pkg, "given.go", givenBefore)
		case !strings.HasPrefix(f.code, "package "):
			write(pkg, "given.go", given)
		}
		write(pkg, "snippet.go", text)
	}
	require.Contains(t, copied, "adapters/river/example_test.go Example", "the first example of the README")

	config := filepath.Join(dir, "overlay.json")
	text, err := json.Marshal(overlay)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(config, text, 0o600))
	out, err := exec.CommandContext(t.Context(), "go", "build", "-overlay", config, "./snippets/...").CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// requireCopyOf requires that a fence equals the declarations that it names, or the body of the one function.
func requireCopyOf(t *testing.T, f fence) {
	t.Helper()
	names := strings.Fields(f.from)
	path, names := names[0], names[1:]
	source, err := os.ReadFile(path)
	require.NoError(t, err, "%s:%d", f.page, f.line)
	file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.ParseComments)
	require.NoError(t, err)
	var want []string
	for _, name := range names {
		decl := declaration(file, name)
		require.NotNil(t, decl, "%s:%d: no %s in %s", f.page, f.line, name, path)
		text := string(source[decl.Pos()-1 : decl.End()-1])
		if fn, ok := decl.(*ast.FuncDecl); ok && len(names) == 1 && !strings.HasPrefix(f.code, "func "+name+"(") {
			text = string(source[fn.Body.Lbrace : fn.Body.Rbrace-1])
		}
		want = append(want, text)
	}
	shown := strings.Join(want, "\n\n")
	require.Equal(t, formatted(t, shown), formatted(t, f.code), "%s:%d is not %s", f.page, f.line, f.from)
}

// declaration returns the one of a function, or the one that has a type, constant or variable of that name.
func declaration(file *ast.File, name string) ast.Decl {
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if decl.Recv == nil && decl.Name.Name == name {
				return decl
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					if spec.Name.Name == name {
						return decl
					}
				case *ast.ValueSpec:
					if spec.Names[0].Name == name {
						return decl
					}
				}
			}
		}
	}
	return nil
}

// formatted returns formatted code, without the output comment of an example.
func formatted(t *testing.T, code string) string {
	t.Helper()
	code, _, _ = strings.Cut(code, "// Output:")
	out, err := format.Source([]byte(strings.TrimSpace(code)))
	require.NoError(t, err)
	return string(out)
}

// file returns the fence as a Go file. A fence may have a whole file, declarations or statements. It is "" for one that
// needs a library which is not in go.mod: that one only has to parse.
func (f fence) file(t *testing.T, root string) string {
	t.Helper()
	at := fmt.Sprintf("//line %s:%d\n", filepath.Join(root, f.page), f.line)
	if strings.HasPrefix(f.code, "package ") {
		return at + f.code
	}
	code := at + f.code
	file, err := parser.ParseFile(token.NewFileSet(), "", "package snippet\n"+code, 0)
	if err != nil {
		if code = "func _() {\n" + code + "}\n"; f.before {
			code = "func _() error {\n" + at + f.code + "return nil\n}\n"
		}
		file, err = parser.ParseFile(token.NewFileSet(), "", "package snippet\n"+code, 0)
	}
	require.NoError(t, err, "%s:%d", f.page, f.line)
	if len(file.Imports) > 0 {
		return "package snippet\n" + code
	}
	imports := map[string]bool{}
	for _, ident := range file.Unresolved {
		path := packages[ident.Name]
		if f.before {
			other, known := packagesBefore[ident.Name]
			if path = cmp.Or(other, path); known && other == "" {
				return ""
			}
		}
		if path != "" {
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

// Links lead to existing pages and headings, and the paths in architecture.md to existing files.
func TestPages_PointAtWhatExists(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s:]+)\)`) // none with a scheme
	code := regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInAnchor := regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
	read := func(page string) string {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		return string(text)
	}
	anchors := func(page string) (all []string) {
		for _, h := range heading.FindAllStringSubmatch(read(page), -1) {
			all = append(all, strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-"))
		}
		return all
	}
	for _, page := range pages(t) {
		for _, l := range link.FindAllStringSubmatch(code.ReplaceAllString(read(page), ""), -1) {
			file, anchor, _ := strings.Cut(l[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
				_, err := os.Stat(target)
				require.NoError(t, err, "%s: %s", page, l[1])
			}
			if anchor != "" {
				require.Contains(t, anchors(target), anchor, "%s: %s", page, l[1])
			}
		}
	}
	for _, name := range regexp.MustCompile("`([\\w/]+\\.(?:go|sql))`").FindAllStringSubmatch(read("docs/architecture.md"), -1) {
		found := false
		for _, dir := range []string{"", "adapters/river", "adapters/river/internal"} {
			_, err := os.Stat(filepath.Join(dir, name[1]))
			found = found || err == nil
		}
		require.True(t, found, "docs/architecture.md: no %s", name[1])
	}
}

// packages maps the package names in fences without imports to import paths.
var packages = map[string]string{
	"bytes": "bytes", "context": "context", "errors": "errors", "exec": "os/exec", "fmt": "fmt", "http": "net/http", "io": "io",
	"json": "encoding/json", "os": "os", "regexp": "regexp", "signal": "os/signal", "slog": "log/slog", "strconv": "strconv",
	"strings": "strings", "synctest": "testing/synctest", "syscall": "syscall", "testing": "testing", "time": "time",
	"pgconn": "github.com/jackc/pgx/v5/pgconn", "pgx": "github.com/jackc/pgx/v5", "pgxpool": "github.com/jackc/pgx/v5/pgxpool",
	"require": "github.com/stretchr/testify/require", "riverqueue": "github.com/riverqueue/river",
	"propagation": "go.opentelemetry.io/otel/propagation",
	"sdktrace":    "go.opentelemetry.io/otel/sdk/trace", "sdkmetric": "go.opentelemetry.io/otel/sdk/metric",
	"jobs": module + "jobs", "jobstest": module + "jobs/jobstest", "providertest": module + "jobs/providertest", "jobshttp": module + "jobs/jobshttp", "jobsping": module + "jobs/jobsping",
	"memory": module + "adapters/memory", "river": module + "adapters/river", "jobsotel": module + "adapters/otel",
}

// packagesBefore maps the package names of other libraries to import paths, or to "" if they are not in go.mod.
var packagesBefore = map[string]string{
	"river": "github.com/riverqueue/river", "riverpgxv5": "github.com/riverqueue/river/riverdriver/riverpgxv5",
	"cron": "github.com/robfig/cron/v3", "asynq": "", "gocron": "",
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
	server    *http.Server

	retain, sync jobs.Handler
)

type Scheduler struct{ *river.Scheduler }

func check(error) {}
`

// givenBefore are those of fences with other libraries.
const givenBefore = `package snippet

import (
	"context"
	"time"

	"github.com/riverqueue/river"
	"github.com/robfig/cron/v3"
)

var (
	ctx    context.Context
	berlin *time.Location
	logger cron.Logger
)

func deleteOldRows() {}

type RetentionArgs struct{}

func (RetentionArgs) Kind() string { return "audit_retention" }

type RetentionWorker struct{ river.WorkerDefaults[RetentionArgs] }

func (*RetentionWorker) Work(context.Context, *river.Job[RetentionArgs]) error { return nil }
`
