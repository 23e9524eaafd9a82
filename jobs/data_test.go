package jobs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

type text struct {
	Text string `json:"text"`
}

type marshaler func() ([]byte, error)

func (m marshaler) MarshalJSON() ([]byte, error) { return m() }

// A texter encodes itself as a string.
type texter string

func (s texter) MarshalText() ([]byte, error) { return []byte(s), nil }

// A pointerTexter does so if it is addressable.
type pointerTexter struct{ s string }

func (s *pointerTexter) MarshalText() ([]byte, error) { return []byte(s.s), nil }

// A pairKey encodes itself as the key of a map.
type pairKey struct{ s string }

func (k pairKey) MarshalText() ([]byte, error) { return []byte(k.s), nil }

// A node may refer to itself.
type node struct {
	Name string
	Next *node
}

func circle(name string) *node {
	n := &node{Name: name}
	n.Next = n
	return n
}

// wrapped encodes Next as null, because the field at the lesser depth takes precedence.
type wrapped struct {
	*node
	Next *int
}

func raw(format string, args ...any) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(format, args...))
}

// nested returns an object that is nested to the given depth.
func nested(levels int) json.RawMessage {
	return raw(`%s1%s`, strings.Repeat(`{"a":`, levels), strings.Repeat(`}`, levels))
}

// sized returns an object of n bytes.
func sized(n int) json.RawMessage { return raw(`{"a":"%s"}`, strings.Repeat("x", n-len(`{"a":""}`))) }

func TestNewRequest_AcceptsDataThatCanBeStored(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rule string
		data any
		want string
	}{
		{"nil is an empty object", nil, `{}`},
		{"a struct", text{"x"}, `{"text":"x"}`},
		{"a pointer to a struct", &text{"x"}, `{"text":"x"}`},
		{"an empty struct", struct{}{}, `{}`},
		{"a map", map[string]any{"b": 1, "a": []any{true, nil, 1.5}}, `{"a":[true,null,1.5],"b":1}`},
		{"an empty map", map[string]int{}, `{}`},
		{"a map with numbers for keys", map[int]string{7: "x"}, `{"7":"x"}`},
		{"raw JSON", raw(`{"a":1}`), `{"a":1}`},
		{"raw JSON with space", raw(" {\n\t\"a\" : 1 } "), `{"a":1}`},
		{"a value that encodes itself as an object", marshaler(func() ([]byte, error) { return []byte(`{"a":1}`), nil }), `{"a":1}`},

		{"HTML characters", text{"<b>&amp;"}, `{"text":"\u003cb\u003e\u0026amp;"}`},
		{"any script", text{"żółć 漢字 😀"}, `{"text":"żółć 漢字 😀"}`},
		{"control characters", text{"\x01\t\x1f\x7f"}, `{"text":"\u0001\t\u001f` + "\x7f" + `"}`},
		{"line separators", text{"\u2028"}, `{"text":"\u2028"}`},
		{"an intended replacement character", text{"\ufffd"}, `{"text":"` + "\ufffd" + `"}`},
		{"a replacement character in raw JSON", raw(`{"a":"%s"}`, "\ufffd"), `{"a":"` + "\ufffd" + `"}`},
		{"an escaped one in raw JSON", raw(`{"a":"\ufffd","\uFFFD":1}`), `{"a":"\ufffd","\uFFFD":1}`},
		{"an escaped one in raw JSON in a struct", struct{ A json.RawMessage }{raw(`"caf\ufffd"`)}, `{"A":"caf\ufffd"}`},
		{"an escaped one in raw JSON in a map", map[string]any{"a": raw(`["\uFFFD"]`), "b": "x"}, `{"a":["\uFFFD"],"b":"x"}`},
		{"an escaped one in raw JSON in a list", struct{ A []any }{[]any{"x", &[]json.RawMessage{raw(`"\ufffd"`)}}}, `{"A":["x",["\ufffd"]]}`},
		{"an escaped one in raw JSON beside an intended one", struct {
			A json.RawMessage
			B string
		}{raw(`"\ufffd"`), "\ufffd"}, `{"A":"\ufffd","B":"` + "\ufffd" + `"}`},
		{"an escaped one by a value that encodes itself", marshaler(func() ([]byte, error) { return []byte(`{"a":"\ufffd"}`), nil }), `{"a":"\ufffd"}`},
		{"text that looks like an escaped one", map[string]any{"a": `\ufffd`, "b": []byte("\xff")}, `{"a":"\\ufffd","b":"/w=="}`},
		{"invalid UTF-8 that is not encoded", struct {
			A      json.RawMessage
			B      string `json:"-"`
			hidden *node
		}{raw(`"\ufffd"`), "\xff", circle("\xff")}, `{"A":"\ufffd"}`},
		{"cycles that are not encoded", struct {
			A json.RawMessage
			B wrapped
		}{raw(`"\ufffd"`), wrapped{circle("x"), nil}}, `{"A":"\ufffd","B":{"Name":"x","Next":null}}`},
		{"an escaped backslash before u0000", raw(`{"a":"\\u0000"}`), `{"a":"\\u0000"}`},
		{"a backslash before u0000 in a struct", text{`\u0000 \ud800 \ufffd`}, `{"text":"\\u0000 \\ud800 \\ufffd"}`},
		{"two escaped backslashes before u0000", raw(`{"a":"\\\\u0000"}`), `{"a":"\\\\u0000"}`},
		{"quotes and braces in strings", raw(`{"a":"\"}{[\\","b":"]"}`), `{"a":"\"}{[\\","b":"]"}`},
		{"every escape", raw(`{"a":"\"\\\/\b\f\n\r\t\u00e9"}`), `{"a":"\"\\\/\b\f\n\r\t\u00e9"}`},
		{"a pair of surrogates", raw(`{"a":"\ud83d\ude00"}`), `{"a":"\ud83d\ude00"}`},
		{"a pair in capitals", raw(`{"a":"\uD83D\uDE00"}`), `{"a":"\uD83D\uDE00"}`},
		{"the outermost pairs", raw(`{"a":"\ud800\udc00\udbff\udfff"}`), `{"a":"\ud800\udc00\udbff\udfff"}`},
		{"neighbours of surrogates", raw(`{"a":"\ud7ff\ue000\udabc\udef0"}`), `{"a":"\ud7ff\ue000\udabc\udef0"}`},

		{"the largest exponent", raw(`{"a":1e1000}`), `{"a":1e1000}`},
		{"the smallest exponent", raw(`{"a":1.5E-1000}`), `{"a":1.5E-1000}`},
		{"an exponent with zeros", raw(`{"a":1e+0000001000}`), `{"a":1e+0000001000}`},
		{"an exponent in a string", text{"1e9999"}, `{"text":"1e9999"}`},
		{"an exponent in a key", raw(`{"1e9999":true}`), `{"1e9999":true}`},
		{"the e of true and false before a number", raw(`{"a":[true,9999,false,9999]}`), `{"a":[true,9999,false,9999]}`},
		{"numbers that are long without exponents", raw(`{"a":[%s1]}`, strings.Repeat("1e1000,", 2000)), `{"a":[` + strings.Repeat("1e1000,", 2000) + `1]}`},
		{"as many numbers as fit", raw(`{"a":[%s1]}`, strings.Repeat("1,", 524_283)), `{"a":[` + strings.Repeat("1,", 524_283) + `1]}`},
		{"many floats", map[string][]float64{"a": slices.Repeat([]float64{1e21, -1e-7}, 40_000)}, `{"a":[` + strings.Repeat("1e+21,-1e-7,", 39_999) + `1e+21,-1e-7]}`},
		{"the largest float", map[string]float64{"a": math.MaxFloat64}, `{"a":1.7976931348623157e+308}`},
		{"the smallest float", map[string]float64{"a": math.SmallestNonzeroFloat64}, `{"a":5e-324}`},
		{"a long number", raw(`{"a":-%s.%s}`, strings.Repeat("1", 5000), strings.Repeat("1", 5000)), `{"a":-` + strings.Repeat("1", 5000) + "." + strings.Repeat("1", 5000) + `}`},
		{"many numbers", raw(`{"a":[1%s]}`, strings.Repeat(",1.5e1", 6000)), `{"a":[1` + strings.Repeat(",1.5e1", 6000) + `]}`},
		{"many digits in a string", text{strings.Repeat("1", 20_000)}, `{"text":"` + strings.Repeat("1", 20_000) + `"}`},

		{"the deepest nesting", nested(1000), string(nested(1000))},
		{"many objects beside each other", raw(`{"a":[{}%s]}`, strings.Repeat(",{}", 2000)), `{"a":[{}` + strings.Repeat(",{}", 2000) + `]}`},
		{"many brackets in a string", text{strings.Repeat("[", 2000)}, `{"text":"` + strings.Repeat("[", 2000) + `"}`},
		{"the largest size", sized(jobs.MaxDataBytes - 1), string(sized(jobs.MaxDataBytes - 1))},
		{"more than the largest size, most of it space", raw(`{%s}`, strings.Repeat(" ", jobs.MaxDataBytes)), `{}`},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			req, err := jobs.NewRequest("a.b", test.data)
			require.NoError(t, err)
			if string(req.Data) != test.want { // not require.Equal, because some are long
				require.Equal(t, fmt.Sprintf("%.200s", test.want), fmt.Sprintf("%.200s", req.Data))
				t.Fatal("data differs after 200 bytes")
			}
			requireStorable(t, req.Data)
		})
	}
}

func TestNewRequest_RefusesDataThatCannotBeStored(t *testing.T) {
	t.Parallel()
	const object = "want a JSON object (a struct, a map or a json.RawMessage that holds one), got "
	cyclic := map[string]any{}
	cyclic["a"] = cyclic
	for _, test := range []struct {
		rule string
		data any
		want string
	}{
		{"a nil pointer", (*text)(nil), object + "null"},
		{"a nil map", map[string]int(nil), object + "null"},
		{"nil raw JSON", json.RawMessage(nil), object + "null"},
		{"a list", []int{1}, object + "an array"},
		{"an empty list", [0]int{}, object + "an array"},
		{"a string", "x", object + "a string"},
		{"a string that holds an object", `{"a":1}`, object + "a string"},
		{"bytes", []byte(`{"a":1}`), object + "a string (a []byte is encoded as one)"},
		{"a number", 7, object + "a number"},
		{"a negative number", -7.5, object + "a number"},
		{"true", true, object + "a boolean"},
		{"false", false, object + "a boolean"},
		{"raw JSON that is a list", raw(` [{}]`), object + "an array"},
		{"raw JSON that is null", raw(`null`), object + "null"},

		{"empty raw JSON", json.RawMessage{}, "cannot be encoded as JSON: "},
		{"raw text that is not JSON", raw(`{"a":}`), "cannot be encoded as JSON: "},
		{"raw JSON with something after it", raw(`{} {}`), "cannot be encoded as JSON: "},
		{"a channel", make(chan int), "cannot be encoded as JSON: json: unsupported type: chan int"},
		{"a channel inside", map[string]any{"a": make(chan int)}, "cannot be encoded as JSON: json: unsupported type: chan int"},
		{"a function", func() {}, "cannot be encoded as JSON: json: unsupported type: func()"},
		{"a number that JSON cannot represent", map[string]float64{"a": math.NaN()}, "cannot be encoded as JSON: json: unsupported value: NaN"},
		{"a cycle", cyclic, "cannot be encoded as JSON: json: unsupported value: encountered a cycle"},
		{"nesting beyond the limit of encoding/json", nested(10_001), "cannot be encoded as JSON: "},

		{"invalid UTF-8 in a struct", text{"a\xffb"}, "a string that is not valid UTF-8"},
		{"invalid UTF-8 as a key", map[string]int{"\xc3": 1}, "a string that is not valid UTF-8"},
		{"invalid UTF-8 beside raw JSON that escapes one", struct {
			A json.RawMessage
			B map[string][]*text
		}{raw(`"\ufffd"`), map[string][]*text{"a": {nil, {"a\xff"}}}}, "a string that is not valid UTF-8"},
		{"invalid UTF-8 in an embedded struct", struct{ *text }{&text{"\xff"}}, "a string that is not valid UTF-8"},
		{"invalid UTF-8 in a string that is quoted twice", struct {
			A string `json:",string"`
		}{"\xff"}, "a string that is not valid UTF-8"},
		{"invalid UTF-8 in an interface", map[string]any{"a": []any{map[string]any{"b": any("\xff")}}}, "a string that is not valid UTF-8"},
		{"invalid UTF-8 that a value encodes as its text", struct{ A []any }{[]any{texter("\xff")}}, "a string that is not valid UTF-8"},
		{"invalid UTF-8 that a pointer encodes as its text", &struct{ A pointerTexter }{pointerTexter{"\xff"}}, "a string that is not valid UTF-8"},
		{"invalid UTF-8 of a key that encodes itself", map[pairKey]int{{"\xff"}: 1}, "a string that is not valid UTF-8"},
		{"half a surrogate pair in a struct", text{"\xed\xa0\x80"}, "a string that is not valid UTF-8"},
		{"invalid UTF-8 in raw JSON", raw("{\"a\":\"\xff\"}"), "invalid UTF-8"},
		{"invalid UTF-8 in raw JSON of a struct", struct{ A json.RawMessage }{raw("\"\xff\"")}, "invalid UTF-8"},
		{"the zero character in a struct", text{"a\x00b"}, `the character \u0000, which PostgreSQL cannot store`},
		{"the zero character as a key", map[string]int{"\x00": 1}, `the character \u0000, which PostgreSQL cannot store`},
		{"the zero character in raw JSON", raw(`{"a":"\u0000"}`), `the character \u0000, which PostgreSQL cannot store`},
		{"the zero character after an escaped backslash", raw(`{"a":"\\\u0000"}`), `the character \u0000, which PostgreSQL cannot store`},
		{"the zero character after a pair of surrogates", raw(`{"a":"\ud83d\ude00\u0000"}`), `the character \u0000, which PostgreSQL cannot store`},
		{"a first surrogate alone", raw(`{"a":"\ud83d"}`), `a surrogate \ud83d that is not part of a pair`},
		{"a first surrogate before text", raw(`{"a":"\uD83Dabcdefgh"}`), `a surrogate \uD83D that is not part of a pair`},
		{"a first surrogate before another escape", raw(`{"a":"\udbff\n\ude00"}`), `a surrogate \udbff that is not part of a pair`},
		{"a first surrogate before no surrogate", raw(`{"a":"\ud83d\u0041"}`), `a surrogate \ud83d that is not part of a pair`},
		{"two first surrogates", raw(`{"a":"\ud83d\ud83d\ude00"}`), `a surrogate \ud83d that is not part of a pair`},
		{"a first surrogate before an escaped backslash", raw(`{"a":"\ud83d\\ude00"}`), `a surrogate \ud83d that is not part of a pair`},
		{"a second surrogate alone", raw(`{"a":"\ude00"}`), `a surrogate \ude00 that is not part of a pair`},
		{"a pair the wrong way round", raw(`{"a":"\ude00\ud83d"}`), `a surrogate \ude00 that is not part of a pair`},
		{"a surrogate alone as a key", raw(`{"\udfff":1}`), `a surrogate \udfff that is not part of a pair`},

		{"an exponent too large", raw(`{"a":1e1001}`), "a number with an exponent beyond ±1000"},
		{"an exponent far too large", raw(`{"a":1E+99999}`), "a number with an exponent beyond ±1000"},
		{"an exponent that no integer holds", raw(`{"a":1e%s}`, strings.Repeat("9", 1000)), "a number with an exponent beyond ±1000"},
		{"an exponent too small", raw(`{"a":[0.5e-1001]}`), "a number with an exponent beyond ±1000"},
		{"an exponent of a json.Number", map[string]json.Number{"a": "1e1001"}, "a number with an exponent beyond ±1000"},
		{"a number too long", raw(`{"a":%s}`, strings.Repeat("1", 10_001)), "a number of more than 10000 digits"},
		{
			"many large numbers with exponents", raw(`{"a":[%s1]}`, strings.Repeat("1e1000,", 2100)),
			"2106310 bytes with its numbers written without exponents, as PostgreSQL does; must be fewer than 2097152",
		},
		{"many small numbers with exponents", raw(`{"a":[%s1]}`, strings.Repeat("-1.5E-1000,", 2100)), "with its numbers written without exponents"},
		{"as many of them as fit in 1 MiB", raw(`{"a":[%s1]}`, strings.Repeat("1e1000,", 149_000)), "149447010 bytes with its numbers written"},
		{"a fraction too long", raw(`{"a":0.%s}`, strings.Repeat("1", 10_000)), "a number of more than 10000 digits"},

		{"nesting too deep", nested(1001), "nested deeper than 1000 levels"},
		{"lists nested too deep", raw(`{"a":%s%s}`, strings.Repeat("[", 1000), strings.Repeat("]", 1000)), "nested deeper than 1000 levels"},
		{"one byte too many", sized(jobs.MaxDataBytes), "1048576 bytes of JSON, must be fewer than 1048576"},
		{"far too many bytes", sized(2 * jobs.MaxDataBytes), "2097152 bytes of JSON, must be fewer than 1048576"},
		{"too many bytes once escaped", text{strings.Repeat("<", 200_000)}, "1200011 bytes of JSON, must be fewer than 1048576"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			_, err := jobs.NewRequest("a.b", test.data)
			require.ErrorIs(t, err, jobs.ErrInvalidData)
			require.ErrorContains(t, err, `for "a.b": `)
			require.ErrorContains(t, err, test.want)
			require.Less(t, len(err.Error()), 300, "the error does not contain the data")
		})
	}
}

func TestNewRequest_WrapsEncodingErrors(t *testing.T) {
	t.Parallel()
	cause := errors.New("no")
	_, err := jobs.NewRequest("a.b", marshaler(func() ([]byte, error) { return nil, cause }))
	require.ErrorIs(t, err, jobs.ErrInvalidData)
	require.ErrorIs(t, err, cause)
}

func TestNewRequest_CopiesTheData(t *testing.T) {
	t.Parallel()
	given := raw(`{"a":1}`)
	for _, data := range []any{nil, given} {
		first, err := jobs.NewRequest("a.b", data)
		require.NoError(t, err)
		want := string(first.Data)
		copy(first.Data, "garbage")
		second, err := jobs.NewRequest("a.b", data)
		require.NoError(t, err)
		require.Equal(t, want, string(second.Data))
	}
	require.Equal(t, `{"a":1}`, string(given))
}

var (
	escapedBackslash = regexp.MustCompile(`\\\\`)
	surrogatePair    = regexp.MustCompile(`(?i)\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}`)
	surrogateOrZero  = regexp.MustCompile(`(?i)\\ud[89a-f]|\\u0000`)
)

// requireStorable checks the rules for stored data by decoding it.
func requireStorable(t require.TestingT, data []byte) {
	require.Less(t, len(data), jobs.MaxDataBytes)
	require.True(t, json.Valid(data))
	require.True(t, utf8.Valid(data))
	require.False(t, bytes.ContainsRune(data, 0))
	escapes := surrogatePair.ReplaceAll(escapedBackslash.ReplaceAll(data, nil), nil)
	require.False(t, surrogateOrZero.Match(escapes))

	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var object map[string]any
	require.NoError(t, decoder.Decode(&object))
	require.NotNil(t, object)
	stored := len(data) + bytes.Count(data, []byte(",")) + bytes.Count(data, []byte(":")) // at most, as PostgreSQL writes it
	var check func(any, int)
	check = func(v any, depth int) {
		require.LessOrEqual(t, depth, 1000)
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				require.NotContains(t, key, "\x00")
				check(value, depth+1)
			}
		case []any:
			for _, value := range v {
				check(value, depth+1)
			}
		case string:
			require.NotContains(t, v, "\x00")
		case json.Number:
			digits, exponent, ok := strings.Cut(strings.ToLower(v.String()), "e")
			require.LessOrEqual(t, len(digits), 10_002)
			if ok {
				n, err := strconv.Atoi(exponent)
				require.NoError(t, err)
				require.LessOrEqual(t, max(n, -n), 1000)
				if exact, ok := new(big.Rat).SetString(v.String()); ok && exact.Sign() != 0 {
					_, fraction, _ := strings.Cut(digits, ".")
					stored += len(exact.FloatString(max(0, len(fraction)-n))) - len(v.String())
				}
			}
		}
	}
	check(object, 0)
	require.Less(t, stored, 4<<20) // commas and colons in strings are counted too
}

// FuzzData checks that any JSON written by a caller, if it is accepted, can be stored and keeps its meaning.
func FuzzData(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` {"a" : [1, 2.5e3, -0, true, null, "x"]} `, `[]`, `null`, `"x"`, ``, `{`, `{} {}`, `{"a":"\u0000"}`, `{"a":"\\u0000"}`, `{"a":"\\\u0000"}`,
		`{"a":"\ud83d\ude00"}`, `{"a":"\ud83d"}`, `{"a":"\ude00\ud83d"}`, `{"a":"\uD83D\\uDE00"}`, `{"a":"\ufffd"}`, "{\"a\":\"\xff\"}", "{\"\ufffd\":1}",
		`{"a":1e1000}`, `{"a":1e1001}`, `{"a":1E+99999}`, `{"a":[true,1e-1001]}`, `{"<":"&\u2028"}`, `{"a":1,"a":2}`, `{"a":"\ud83d\u`, string(nested(1001)),
	} {
		f.Add([]byte(seed))
	}
	decode := func(data []byte) (v any, err error) {
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.UseNumber()
		return v, decoder.Decode(&v)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		req, err := jobs.NewRequest("a.b", json.RawMessage(data))
		if err != nil {
			require.ErrorIs(t, err, jobs.ErrInvalidData)
			return
		}
		requireStorable(t, req.Data)
		if data == nil {
			return
		}
		want, err := decode(data)
		require.NoError(t, err)
		got, err := decode(req.Data)
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

// FuzzDataText checks that a string is accepted, and stored unchanged, if and only if PostgreSQL can store it.
func FuzzDataText(f *testing.F) {
	for _, seed := range []string{"", "x", "\x00", "\xff", "\ufffd", `\u0000`, `\ufffd`, `"\`, "\xed\xa0\x80", "😀", "<&>\u2028", "\x7f"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		req, err := jobs.NewRequest("a.b", map[string]text{key: {value}})
		if both := key + value; len(both) < 100_000 {
			storable := utf8.ValidString(key) && utf8.ValidString(value) && !strings.ContainsRune(both, 0)
			require.Equal(t, storable, err == nil, "%v", err)
		}
		if err != nil {
			require.ErrorIs(t, err, jobs.ErrInvalidData)
			return
		}
		requireStorable(t, req.Data)
		var got map[string]text
		require.NoError(t, json.Unmarshal(req.Data, &got))
		require.Equal(t, map[string]text{key: {value}}, got)
	})
}
