package accesslog

import (
	"encoding/hex"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
)

// Record makes OTLP log records of entries, from a body and attributes whose strings are formats.
type Record struct {
	body       func(*Entry) *commonpb.AnyValue
	attributes []recordField
}

type recordField struct {
	key   string
	value func(*Entry) *commonpb.AnyValue
}

// CompileRecord compiles a body, which may be nil, and attributes.
func CompileRecord(body *commonpb.AnyValue, attributes *commonpb.KeyValueList, formatters []*corev3.TypedExtensionConfig) (*Record, error) {
	var x extensions
	for _, f := range formatters {
		if err := x.add(f); err != nil {
			return nil, err
		}
	}
	out := &Record{}
	var err error
	if body != nil {
		if out.body, err = anyValue(body, x); err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
	}
	out.attributes, err = recordFields(attributes, x)
	return out, err
}

func recordFields(list *commonpb.KeyValueList, x extensions) ([]recordField, error) {
	var out []recordField
	for _, kv := range list.GetValues() {
		v, err := anyValue(kv.GetValue(), x)
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", kv.GetKey(), err)
		}
		out = append(out, recordField{kv.GetKey(), v})
	}
	return out, nil
}

func anyValue(v *commonpb.AnyValue, x extensions) (func(*Entry) *commonpb.AnyValue, error) {
	switch k := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		f, err := compileText(k.StringValue, false, x)
		if err != nil {
			return nil, err
		}
		return func(e *Entry) *commonpb.AnyValue {
			return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: string(f.Format(e))}}
		}, nil
	case *commonpb.AnyValue_KvlistValue:
		list, err := recordFields(k.KvlistValue, x)
		if err != nil {
			return nil, err
		}
		return func(e *Entry) *commonpb.AnyValue {
			return &commonpb.AnyValue{Value: &commonpb.AnyValue_KvlistValue{KvlistValue: &commonpb.KeyValueList{Values: filled(list, e)}}}
		}, nil
	case *commonpb.AnyValue_ArrayValue:
		var list []func(*Entry) *commonpb.AnyValue
		for _, item := range k.ArrayValue.GetValues() {
			f, err := anyValue(item, x)
			if err != nil {
				return nil, err
			}
			list = append(list, f)
		}
		return func(e *Entry) *commonpb.AnyValue {
			out := &commonpb.ArrayValue{}
			for _, f := range list {
				out.Values = append(out.Values, f(e))
			}
			return &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: out}}
		}, nil
	default:
		return nil, fmt.Errorf("value %T is not supported, only strings, lists and maps", k)
	}
}

func filled(list []recordField, e *Entry) []*commonpb.KeyValue {
	out := make([]*commonpb.KeyValue, 0, len(list))
	for _, f := range list {
		out = append(out, &commonpb.KeyValue{Key: f.key, Value: f.value(e)})
	}
	return out
}

// Make renders e.
func (r *Record) Make(e *Entry) *logspb.LogRecord {
	out := &logspb.LogRecord{TimeUnixNano: uint64(e.Start.UnixNano()), Attributes: filled(r.attributes, e)}
	if r.body != nil {
		out.Body = r.body(e)
	}
	if id, err := hex.DecodeString(e.TraceID); err == nil && len(id) > 0 {
		if len(id) == 8 {
			id = append(make([]byte, 8), id...)
		}
		out.TraceId = id
	}
	if id, err := hex.DecodeString(e.SpanID); err == nil && len(id) == 8 {
		out.SpanId = id
	}
	return out
}
