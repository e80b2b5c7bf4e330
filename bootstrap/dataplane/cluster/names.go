package cluster

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	casev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/header_formatters/preserve_case/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
)

// KeepsNames reports whether the names of HTTP/1 headers are to go on as their sender has written them.
func KeepsNames(o *corev3.Http1ProtocolOptions) (bool, error) {
	f := o.GetHeaderKeyFormat()
	switch k := f.GetHeaderFormat().(type) {
	case nil:
		return false, nil
	case *corev3.Http1ProtocolOptions_HeaderKeyFormat_StatefulFormatter:
		if url := k.StatefulFormatter.GetTypedConfig().GetTypeUrl(); url != registry.PreserveCase {
			return false, fields.UnsupportedType("header formatter", k.StatefulFormatter.GetName(), url)
		}
		c := &casev3.PreserveCaseFormatterConfig{}
		if err := k.StatefulFormatter.GetTypedConfig().UnmarshalTo(c); err != nil {
			return false, err
		}
		return true, fields.Check(c, "")
	default:
		return false, fields.Unsupported(f, fmt.Sprintf("header_format (%T)", k), "")
	}
}
