package jobs

import (
	"encoding"
	"encoding/json"
	"reflect"
	"unicode/utf8"
)

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// hasInvalidText reports whether a string that encoding/json encodes in v is not valid UTF-8,
// so that it was replaced in part. What encodes itself as JSON is as its author wants it.
func hasInvalidText(v any) bool {
	return (&textFinder{seen: make(map[visit]bool)}).invalid(reflect.ValueOf(v))
}

// A visit is a place that may be reached twice. Fields that are not encoded may lead in circles.
type visit struct {
	t   reflect.Type
	at  uintptr
	len int
}

type textFinder struct{ seen map[visit]bool }

func (f *textFinder) visited(v reflect.Value, length int) bool {
	at := visit{v.Type(), v.Pointer(), length}
	defer func() { f.seen[at] = true }()
	return f.seen[at]
}

// invalid follows what encoding/json encodes of v.
func (f *textFinder) invalid(v reflect.Value) bool {
	if !v.IsValid() {
		return false
	}
	encodesAs := func(marshaler reflect.Type) bool {
		return v.Type().Implements(marshaler) || v.CanAddr() && reflect.PointerTo(v.Type()).Implements(marshaler)
	}
	switch {
	case encodesAs(jsonMarshaler):
		return false
	case encodesAs(textMarshaler):
		return f.invalidMarshaled(v)
	}
	switch v.Kind() {
	case reflect.String:
		return !utf8.ValidString(v.String())
	case reflect.Interface:
		return f.invalid(v.Elem())
	case reflect.Pointer:
		return !f.visited(v, 0) && f.invalid(v.Elem())
	case reflect.Map:
		return !f.visited(v, 0) && f.invalidInMap(v)
	case reflect.Slice:
		return !f.visited(v, v.Len()) && f.invalidInList(v)
	case reflect.Array:
		return f.invalidInList(v)
	case reflect.Struct:
		return f.invalidInStruct(v)
	}
	return false
}

func (f *textFinder) invalidMarshaled(v reflect.Value) bool {
	if v.Kind() == reflect.Pointer && v.IsNil() || v.Kind() == reflect.Interface && v.IsNil() || !v.CanInterface() {
		return false
	}
	m, ok := v.Interface().(encoding.TextMarshaler)
	if !ok {
		m = v.Addr().Interface().(encoding.TextMarshaler)
	}
	text, err := m.MarshalText()
	return err == nil && !utf8.Valid(text)
}

func (f *textFinder) invalidInMap(v reflect.Value) bool {
	for entries := v.MapRange(); entries.Next(); {
		key := entries.Key()
		switch {
		case f.invalid(entries.Value()):
			return true
		case key.Kind() == reflect.String:
			if !utf8.ValidString(key.String()) {
				return true
			}
		case key.Type().Implements(textMarshaler) && f.invalidMarshaled(key):
			return true
		}
	}
	return false
}

func (f *textFinder) invalidInList(v reflect.Value) bool {
	if v.Type().Elem() == reflect.TypeFor[byte]() {
		return false // in Base64
	}
	for i := range v.Len() {
		if f.invalid(v.Index(i)) {
			return true
		}
	}
	return false
}

func (f *textFinder) invalidInStruct(v reflect.Value) bool {
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
