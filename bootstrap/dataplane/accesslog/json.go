package accesslog

import (
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"
)

// node is a part of a JSON format. append reports false when all that was
// written stands for absent values, so that an object may leave the key out.
type node interface {
	append(dst []byte, e *Entry) ([]byte, bool)
}

// constant is JSON text.
type constant []byte

func (c constant) append(dst []byte, _ *Entry) ([]byte, bool) { return append(dst, c...), true }

// single is a string that is one operator: its value keeps its type.
type single struct{ op *operator }

func (s single) append(dst []byte, e *Entry) ([]byte, bool) { return s.op.appendJSON(dst, e) }

// template is a string of several operators and literals: always a JSON string.
type template struct {
	pieces    []piece
	omitEmpty bool
}

func (t template) append(dst []byte, e *Entry) ([]byte, bool) {
	dst = append(dst, '"')
	start := len(dst)
	dst = appendPieces(dst, e, t.pieces, t.omitEmpty)
	return append(escapeTail(dst, start), '"'), true
}

type member struct {
	key   []byte // quoted, with the colon
	value node
}

type object struct {
	members   []member
	omitEmpty bool
}

// With omit_empty_values, members without a value go, and so does an object that
// is left empty by that; the root stays.
func (o *object) append(dst []byte, e *Entry) ([]byte, bool) {
	dst = append(dst, '{')
	empty := true
	for i := range o.members {
		start := len(dst)
		if !empty {
			dst = append(dst, ',')
		}
		dst = append(dst, o.members[i].key...)
		var ok bool
		if dst, ok = o.members[i].value.append(dst, e); !ok && o.omitEmpty {
			dst = dst[:start]
			continue
		}
		empty = false
	}
	return append(dst, '}'), !empty || len(o.members) == 0
}

type array struct {
	elements  []node
	omitEmpty bool
}

func (a *array) append(dst []byte, e *Entry) ([]byte, bool) {
	dst = append(dst, '[')
	empty := true
	for _, n := range a.elements {
		start := len(dst)
		if !empty {
			dst = append(dst, ',')
		}
		var ok bool
		if dst, ok = n.append(dst, e); !ok && a.omitEmpty {
			dst = dst[:start]
			continue
		}
		empty = false
	}
	return append(dst, ']'), true
}

// compileObject compiles a format dictionary. Keys are printed in order.
func compileObject(s *structpb.Struct, ext extensions, omitEmpty bool) (*object, error) {
	o := &object{omitEmpty: omitEmpty}
	for _, k := range slices.Sorted(maps.Keys(s.GetFields())) {
		n, err := compileNode(s.GetFields()[k], ext, omitEmpty)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", k, err)
		}
		o.members = append(o.members, member{key: append(appendString(nil, k), ':'), value: n})
	}
	return o, nil
}

func compileNode(v *structpb.Value, ext extensions, omitEmpty bool) (node, error) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		pieces, err := parse(k.StringValue, ext)
		switch {
		case err != nil:
			return nil, err
		case len(pieces) == 1 && pieces[0].op != nil:
			return single{pieces[0].op}, nil
		case len(pieces) == 0:
			return constant(`""`), nil
		case len(pieces) == 1:
			return constant(appendString(nil, pieces[0].literal)), nil
		default:
			return template{pieces, omitEmpty}, nil
		}
	case *structpb.Value_NumberValue:
		return constant(appendNumber(nil, k.NumberValue)), nil
	case *structpb.Value_BoolValue:
		return constant(appendValue(nil, k.BoolValue)), nil
	case *structpb.Value_StructValue:
		return compileObject(k.StructValue, ext, omitEmpty)
	case *structpb.Value_ListValue:
		a := &array{omitEmpty: omitEmpty}
		for i, e := range k.ListValue.GetValues() {
			n, err := compileNode(e, ext, omitEmpty)
			if err != nil {
				return nil, fmt.Errorf("element %d: %w", i, err)
			}
			a.elements = append(a.elements, n)
		}
		return a, nil
	default:
		return nil, fmt.Errorf("value %T is not supported", k)
	}
}

func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := len(dst)
	return append(escapeTail(append(dst, s...), start), '"')
}

// escapeTail escapes dst[start:] as the inside of a JSON string. What is not
// UTF-8 becomes U+FFFD.
func escapeTail(dst []byte, start int) []byte {
	clean := true
	for _, c := range dst[start:] {
		if c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			clean = false
			break
		}
	}
	if clean {
		return dst
	}
	raw := string(dst[start:])
	dst = dst[:start]
	for _, r := range raw {
		switch r {
		case '"', '\\':
			dst = append(dst, '\\', byte(r))
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		case '\b':
			dst = append(dst, `\b`...)
		case '\f':
			dst = append(dst, `\f`...)
		default:
			if r < ' ' || r == 0x7f {
				const digits = "0123456789abcdef"
				dst = append(dst, `\u00`...)
				dst = append(dst, digits[r>>4], digits[r&15])
				continue
			}
			dst = utf8.AppendRune(dst, r)
		}
	}
	return dst
}
