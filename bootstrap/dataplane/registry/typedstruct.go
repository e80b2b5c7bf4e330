package registry

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// Plain returns a as it is, or, where it is a TypedStruct that stands for a type linked in here, as a message of that
// type: users write EnvoyFilters in either form. Fields that the type does not have are errors.
func Plain(a *anypb.Any) (*anypb.Any, error) {
	url, body, err := Unwrap(a)
	if err != nil || body == nil {
		return a, err
	}
	t, err := protoregistry.GlobalTypes.FindMessageByURL(url)
	if errors.Is(err, protoregistry.NotFound) {
		return a, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := protojson.Marshal(body)
	if err != nil {
		return nil, err
	}
	m := t.New().Interface()
	if err := protojson.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	out, err := anypb.New(m)
	if err != nil {
		return nil, err
	}
	out.TypeUrl = url
	return out, nil
}

// Struct returns the configuration in a as a structure, whichever of the forms it has: a TypedStruct, or a message
// whose type happens to be linked in. It is nil for any other type, whose configuration cannot be read here.
func Struct(a *anypb.Any) (*structpb.Struct, error) {
	_, body, err := Unwrap(a)
	if err != nil || body != nil {
		return body, err
	}
	m, err := a.UnmarshalNew()
	if errors.Is(err, protoregistry.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	body = &structpb.Struct{}
	return body, protojson.Unmarshal(text, body)
}
