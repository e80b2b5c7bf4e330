package xds

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
)

// ResourceName reads a resource's name without decoding it: in every type served here (cluster, listener, route
// configuration, secret, load assignment) the name is the string in field 1.
func ResourceName(body *anypb.Any) (string, error) {
	b := body.GetValue()
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return "", fmt.Errorf("resource of type %s: %w", body.GetTypeUrl(), protowire.ParseError(n))
		}
		b = b[n:]
		if num == 1 && typ == protowire.BytesType {
			v, n := protowire.ConsumeString(b)
			if n < 0 {
				return "", fmt.Errorf("resource of type %s: %w", body.GetTypeUrl(), protowire.ParseError(n))
			}
			return v, nil
		}
		n = protowire.ConsumeFieldValue(num, typ, b)
		if n < 0 {
			return "", fmt.Errorf("resource of type %s: %w", body.GetTypeUrl(), protowire.ParseError(n))
		}
		b = b[n:]
	}
	return "", nil
}
