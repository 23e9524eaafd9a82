// Package equal compares JSON by value, for tests of providers and of applications.
package equal

import (
	"encoding/json"
	"math/big"
	"strings"
)

// JSON reports whether a and b are the same JSON value. Numbers are compared exactly.
func JSON(a, b []byte) bool {
	ca, errA := canonicalJSON(a)
	cb, errB := canonicalJSON(b)
	return errA == nil && errB == nil && ca == cb
}

// canonicalJSON returns data without spaces, with sorted keys and with numbers as fractions. PostgreSQL stores numbers
// exactly but may write them differently.
func canonicalJSON(data []byte) (string, error) {
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return "", err
	}
	encoded, err := json.Marshal(exactNumbers(v))
	return string(encoded), err
}

func exactNumbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key := range v {
			v[key] = exactNumbers(v[key])
		}
	case []any:
		for i := range v {
			v[i] = exactNumbers(v[i])
		}
	case json.Number:
		if exact, ok := new(big.Rat).SetString(v.String()); ok {
			return json.RawMessage(`["number","` + exact.RatString() + `"]`)
		}
	}
	return v
}
