// Package fields finds configuration that the proxy would otherwise pass over in silence.
//
// A translator names the fields it honours; every other field that is set is reported by its full name, so that the
// whole resource is refused with a message that says why. It knows protobuf reflection and no Envoy type.
package fields

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// UnsupportedError names a field or type that the proxy does not implement.
type UnsupportedError struct {
	Path string // message full name and field, or type URL
	Why  string // optional
}

// Error implements error.
func (e *UnsupportedError) Error() string {
	if e.Why == "" {
		return e.Path + ": not supported by the ropes data plane"
	}
	return e.Path + ": not supported by the ropes data plane: " + e.Why
}

// Unsupported returns an UnsupportedError for one field of m.
func Unsupported(m proto.Message, field, why string) error {
	return &UnsupportedError{Path: string(m.ProtoReflect().Descriptor().FullName()) + "." + field, Why: why}
}

// UnsupportedType returns an UnsupportedError for a type URL.
func UnsupportedType(kind, name, typeURL string) error {
	return &UnsupportedError{Path: fmt.Sprintf("%s %q of type %s", kind, name, typeURL)}
}

// Check returns an error naming the first field set in m that is not among the allowed names (protobuf field names,
// space separated). A nil or empty message passes. Fields unknown to the compiled schema are errors too.
func Check(m proto.Message, allowed string) error {
	if m == nil {
		return nil
	}
	r := m.ProtoReflect()
	if !r.IsValid() {
		return nil
	}
	var err error
	r.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if contains(allowed, string(fd.Name())) || harmless(fd, v) {
			return true
		}
		err = Unsupported(m, string(fd.Name()), "")
		return false
	})
	if err != nil {
		return err
	}
	if n := len(r.GetUnknown()); n > 0 {
		return Unsupported(m, "(unknown field)", fmt.Sprintf("%d bytes of fields newer than the compiled schema", n))
	}
	return nil
}

// harmless reports values that say the same as an absent field: wrappers that hold false.
func harmless(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	if fd.Kind() != protoreflect.MessageKind || fd.IsList() || fd.IsMap() {
		return false
	}
	if fd.Message().FullName() != "google.protobuf.BoolValue" {
		return false
	}
	return !v.Message().Get(fd.Message().Fields().ByName("value")).Bool()
}

func contains(list, name string) bool {
	for s := range strings.FieldsSeq(list) {
		if s == name {
			return true
		}
	}
	return false
}
