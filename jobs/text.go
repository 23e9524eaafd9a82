package jobs

import (
	"encoding"
	"encoding/json"
	"reflect"
	"unicode/utf8"
)

// hasInvalidText reports whether v contains a string that is not valid UTF-8, which encoding/json alters. A value that
// implements [json.Marshaler] is taken as it encodes itself.
func hasInvalidText(v any) bool { return textFinder{}.invalid(reflect.ValueOf(v)) }

// A textFinder records what it has visited, because fields that are not encoded may form cycles.
type textFinder map[visit]bool

// A visit identifies a pointer, map or slice.
type visit struct {
	t   reflect.Type
	at  uintptr
	len int
}

// invalid walks the parts of v that encoding/json encodes.
func (f textFinder) invalid(v reflect.Value) bool {
	if !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return false
	}
	if v.CanInterface() {
		encoder := v.Interface()
		if v.CanAddr() {
			encoder = v.Addr().Interface()
		}
		switch encoder := encoder.(type) {
		case json.Marshaler:
			return false
		case encoding.TextMarshaler:
			return encodesInvalid(encoder)
		}
	}
	switch v.Kind() {
	case reflect.String:
		return !utf8.ValidString(v.String())
	case reflect.Interface:
		return f.invalid(v.Elem())
	case reflect.Pointer:
		return f.first(v, 0) && f.invalid(v.Elem())
	case reflect.Map:
		return f.first(v, 0) && f.invalidElement(v)
	case reflect.Slice:
		return f.first(v, v.Len()) && f.invalidElement(v)
	case reflect.Array:
		return f.invalidElement(v)
	case reflect.Struct:
		return f.invalidField(v)
	}
	return false
}

// first reports whether v is visited for the first time.
func (f textFinder) first(v reflect.Value, length int) bool {
	at := visit{v.Type(), v.Pointer(), length}
	seen := f[at]
	f[at] = true
	return !seen
}

func (f textFinder) invalidElement(v reflect.Value) bool {
	for key, element := range v.Seq2() {
		if v.Kind() == reflect.Map && invalidKey(key) || f.invalid(element) {
			return true
		}
	}
	return false
}

func invalidKey(key reflect.Value) bool {
	if key.Kind() == reflect.String {
		return !utf8.ValidString(key.String())
	}
	m, ok := key.Interface().(encoding.TextMarshaler)
	return ok && encodesInvalid(m)
}

func encodesInvalid(m encoding.TextMarshaler) bool {
	text, err := m.MarshalText()
	return err == nil && !utf8.Valid(text)
}

func (f textFinder) invalidField(v reflect.Value) bool {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		inner := field.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		encoded := field.IsExported() || field.Anonymous && inner.Kind() == reflect.Struct
		if encoded && field.Tag.Get("json") != "-" && f.invalid(v.Field(i)) {
			return true
		}
	}
	return false
}
