package providertest

import "testing"

// RuleNames returns the names of all rules.
func RuleNames() []string {
	names := make([]string, len(rules))
	for i, r := range rules {
		names[i] = r.name
	}
	return names
}

// RunRule tests h against one rule.
func RunRule(t testing.TB, name string, h Harness) {
	for _, r := range rules {
		if r.name == name {
			r.run(t, h)
			return
		}
	}
	t.Fatalf("unknown rule %q", name)
}
