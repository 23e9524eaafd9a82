package river

import (
	"runtime/debug"
	"strconv"
	"strings"
)

// linkedRiver returns the version of River that the program links, or "" if that is not known.
func linkedRiver() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, dep := range info.Deps {
		if dep.Path == "github.com/riverqueue/river" {
			return dep.Version
		}
	}
	return ""
}

// newer reports whether version a is a newer release than b. What is no release is not.
func newer(a, b string) bool {
	x, okX := parseVersion(a)
	y, okY := parseVersion(b)
	if !okX || !okY {
		return false
	}
	for i := range x {
		if x[i] != y[i] {
			return x[i] > y[i]
		}
	}
	return false
}

func parseVersion(text string) (v [3]int, ok bool) {
	text, found := strings.CutPrefix(text, "v")
	parts := strings.Split(text, ".")
	if !found || len(parts) != len(v) {
		return v, false
	}
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}
