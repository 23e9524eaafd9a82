package store

import (
	"go/version"
	"runtime/debug"
	"strings"
)

// TestedRiver is the newest version of River that this package was tested with.
const TestedRiver = "v0.51.2"

// NewerRiver returns the version of River that the program links if it is newer than [TestedRiver], and otherwise "".
func NewerRiver() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, dep := range info.Deps {
		if dep.Path == "github.com/riverqueue/river" && IsNewer(dep.Version, TestedRiver) {
			return dep.Version
		}
	}
	return ""
}

// IsNewer reports whether release a is newer than b. It compares them as Go versions, which have the same form.
func IsNewer(a, b string) bool {
	asGo := func(v string) string { return "go" + strings.TrimPrefix(v, "v") }
	return version.Compare(asGo(a), asGo(b)) > 0
}
