package everytick_test

import (
	"go/format"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestReadmeShowsCodeThatCompiles holds the README's first snippet against the
// example test it is copied from.
func TestReadmeShowsCodeThatCompiles(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	snippet := regexp.MustCompile("(?s)```go\n(.*?)```").FindSubmatch(readme)
	require.NotNil(t, snippet, "README has no Go snippet")
	example, err := os.ReadFile("adapters/river/example_test.go")
	require.NoError(t, err)
	body := regexp.MustCompile(`(?s)func Example\(\) \{\n(.*?)\n\}\n`).FindSubmatch(example)
	require.NotNil(t, body)
	shown, err := format.Source(snippet[1])
	require.NoError(t, err)
	compiled := regexp.MustCompile(`(?m)^\t`).ReplaceAllString(string(body[1]), "")
	require.Equal(t, strings.TrimSpace(compiled), strings.TrimSpace(string(shown)))
}
