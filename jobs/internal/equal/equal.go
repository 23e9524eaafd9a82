// Package equal compares JSON by its meaning, for the tests of providers and of what is built on them.
package equal

import (
	"encoding/json"
	"math/big"
	"strings"
)

// JSON reports whether a and b are the same JSON, to the last digit.
func JSON(a, b []byte) bool {
	ca, errA := canonicalJSON(a)
	cb, errB := canonicalJSON(b)
	return errA == nil && errB == nil && ca == cb
}

// canonicalJSON renders JSON without spaces and with sorted keys. PostgreSQL keeps
// numbers exactly but may write them otherwise, so they are compared by value.
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
