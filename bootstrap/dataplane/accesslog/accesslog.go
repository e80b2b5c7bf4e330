// Package accesslog formats access log entries as Envoy does, from the format
// strings and JSON dictionaries of Envoy's SubstitutionFormatString.
//
// It knows Envoy's command operators (%REQ(X?Y):Z%, %RESPONSE_FLAGS% and so on),
// what each prints, and what stands for a value that is not there ("-" in text,
// null in JSON). It knows no file, no stream and no filter: the proxy fills an
// Entry and writes the bytes. The same format strings appear elsewhere in
// Envoy's configuration, in headers to add and in filter state values;
// CompileText serves those too. Operators that are not implemented are refused
// by name when the format is compiled.
package accesslog

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// DefaultText is Envoy's own format, used where a file access log has none.
// Istio always sends a format.
const DefaultText = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" ` +
	`%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ` +
	`%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" ` +
	`"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"` + "\n"

// Formatter turns entries into lines. It is safe for concurrent use.
type Formatter struct {
	text      []piece
	json      node // nil for a text format
	omitEmpty bool
	size      int // an estimate of a line's length
}

// Compile compiles f. A format that Envoy would refuse, or that uses an operator
// or extension that is not implemented, is an error that names it.
func Compile(f *corev3.SubstitutionFormatString) (*Formatter, error) {
	var ext extensions
	for _, x := range f.GetFormatters() {
		if err := ext.add(x); err != nil {
			return nil, err
		}
	}
	switch s := f.GetFormat().(type) {
	case *corev3.SubstitutionFormatString_TextFormat:
		return compileText(s.TextFormat, f.GetOmitEmptyValues(), ext) //nolint:staticcheck // deprecated, still sent
	case *corev3.SubstitutionFormatString_TextFormatSource:
		switch d := s.TextFormatSource.GetSpecifier().(type) {
		case *corev3.DataSource_InlineString:
			return compileText(d.InlineString, f.GetOmitEmptyValues(), ext)
		case *corev3.DataSource_InlineBytes:
			return compileText(string(d.InlineBytes), f.GetOmitEmptyValues(), ext)
		default:
			return nil, fmt.Errorf("access log format: text_format_source: specifier %T is not supported", d)
		}
	case *corev3.SubstitutionFormatString_JsonFormat:
		root, err := compileObject(s.JsonFormat, ext, f.GetOmitEmptyValues())
		if err != nil {
			return nil, fmt.Errorf("access log format: json_format: %w", err)
		}
		return &Formatter{json: root, omitEmpty: f.GetOmitEmptyValues(), size: 1024}, nil
	default:
		return nil, fmt.Errorf("access log format: format %T is not supported", s)
	}
}

// CompileText compiles a format string without extensions, with "-" for values
// that are not there.
func CompileText(format string) (*Formatter, error) {
	return compileText(format, false, extensions{})
}

func compileText(format string, omitEmpty bool, ext extensions) (*Formatter, error) {
	pieces, err := parse(format, ext)
	if err != nil {
		return nil, fmt.Errorf("access log format: %w", err)
	}
	return &Formatter{text: pieces, omitEmpty: omitEmpty, size: 2*len(format) + 64}, nil
}

// OmitEmpty makes absent values print as nothing. It is for the one who has just compiled f.
func (f *Formatter) OmitEmpty() { f.omitEmpty = true }

// Format returns the line of e. A text format's line ends as the format does; a
// JSON line ends with a newline.
func (f *Formatter) Format(e *Entry) []byte {
	return f.Append(make([]byte, 0, f.size), e)
}

// Append appends the line of e to dst.
func (f *Formatter) Append(dst []byte, e *Entry) []byte {
	if f.json != nil {
		dst, _ = f.json.append(dst, e)
		return append(dst, '\n')
	}
	return appendPieces(dst, e, f.text, f.omitEmpty)
}

// piece is literal text or, when op is set, an operator.
type piece struct {
	literal string
	op      *operator
}

func appendPieces(dst []byte, e *Entry, pieces []piece, omitEmpty bool) []byte {
	for i := range pieces {
		p := &pieces[i]
		if p.op == nil {
			dst = append(dst, p.literal...)
			continue
		}
		var ok bool
		if dst, ok = p.op.appendText(dst, e); !ok && !omitEmpty {
			dst = append(dst, '-')
		}
	}
	return dst
}
