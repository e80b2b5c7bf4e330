package curl

import (
	"bytes"
	"context"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"strings"
)

// parseURL reads a URL as curl does, which takes a scheme for granted.
func parseURL(raw string) (*url.URL, error) {
	if strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, failf(codeURL, "URL using bad/illegal format: %q has blanks or control characters", raw)
	}
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, failf(codeURL, "URL using bad/illegal format: %w", err)
	}
	if u.Hostname() == "" {
		return nil, failf(codeURL, "URL using bad/illegal format: %q has no host", raw)
	}
	switch u.Scheme {
	case "http", "https", "telnet":
	default:
		return nil, failf(codeScheme, "protocol %q not supported", u.Scheme)
	}
	return u, nil
}

// withoutDots takes /./ and /../ out of the path.
func withoutDots(u *url.URL) *url.URL {
	p := u.EscapedPath()
	if !strings.Contains(p+"/", "/./") && !strings.Contains(p+"/", "/../") {
		return u
	}
	clean := path.Clean("/" + p)
	if last := path.Base(p); clean != "/" && (strings.HasSuffix(p, "/") || last == "." || last == "..") {
		clean += "/"
	}
	copied := *u
	copied.RawPath = clean
	if unescaped, err := url.PathUnescape(clean); err == nil {
		copied.Path = unescaped
	}
	return &copied
}

// request builds the first request.
func (t *transfer) request(ctx context.Context, u *url.URL) (*http.Request, error) {
	req := &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}, Host: u.Host}
	if err := t.body(req); err != nil {
		return nil, err
	}
	o := t.o
	if o.head {
		req.Method = http.MethodHead
	}
	if o.method != "" {
		req.Method = o.method
	}
	req.Header.Set("Accept", "*/*")
	if o.contentType == jsonType {
		req.Header.Set("Accept", jsonType)
	}
	req.Header.Set("User-Agent", o.agent)
	set := func(name, value string) {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	set("Referer", o.referer)
	set("Cookie", o.cookie)
	if o.rangeOf != "" {
		req.Header.Set("Range", "bytes="+o.rangeOf)
	}
	if user := u.User; user != nil && o.user == "" {
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	if o.user != "" {
		name, password, _ := strings.Cut(o.user, ":")
		req.SetBasicAuth(name, password)
	}
	if o.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+o.bearer)
	}
	u.User, u.Fragment = nil, ""
	for _, h := range o.headers {
		t.header(req, h)
	}
	return req.WithContext(ctx), nil
}

// header applies one -H: "Name: value", "Name:" takes a header away, "Name;" sends it empty.
func (t *transfer) header(req *http.Request, h string) {
	name, value, ok := strings.Cut(h, ":")
	value = strings.TrimSpace(value)
	if !ok {
		if name, ok = strings.CutSuffix(h, ";"); !ok {
			return // as curl, which takes no notice of a line without a colon
		}
		req.Header.Add(name, "")
		return
	}
	switch key := http.CanonicalHeaderKey(name); {
	case key == "Host":
		req.Host = value
	case value == "" && key == "User-Agent":
		req.Header["User-Agent"] = []string{""} // net/http's way to send none
	case value == "":
		req.Header.Del(key)
	case key == "Content-Type", key == "User-Agent", key == "Accept", key == "Authorization":
		req.Header.Set(key, value)
	default:
		req.Header.Add(key, value)
	}
}

// body gives the request what -d, -F or -T say.
func (t *transfer) body(req *http.Request) error {
	o := t.o
	switch {
	case o.data != nil && !o.get:
		req.Method = http.MethodPost
		setBytes(req, o.data.Bytes())
		req.Header.Set("Content-Type", o.contentType)
	case o.form != nil:
		req.Method = http.MethodPost
		return t.multipart(req)
	case o.upload != "":
		req.Method = http.MethodPut
		if strings.HasSuffix(req.URL.Path, "/") && o.upload != "-" {
			req.URL = req.URL.JoinPath(filepath.Base(o.upload))
		}
		b, err := readFile(t.call, o.upload)
		if err != nil {
			return err
		}
		setBytes(req, b)
	}
	t.uploaded = req.ContentLength
	return nil
}

func setBytes(req *http.Request, b []byte) {
	req.ContentLength = int64(len(b))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	req.Body, _ = req.GetBody() // it has no error
}

func (t *transfer) multipart(req *http.Request) error {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, f := range t.o.form {
		name, value, ok := strings.Cut(f, "=")
		if !ok {
			return failf(codeUsage, "-F %q is not NAME=VALUE", f)
		}
		if file, isFile := strings.CutPrefix(value, "@"); isFile {
			content, err := readFile(t.call, file)
			if err != nil {
				return err
			}
			part, err := w.CreateFormFile(name, filepath.Base(file))
			if err != nil {
				return err
			}
			if _, err := part.Write(content); err != nil {
				return err
			}
			continue
		}
		if err := w.WriteField(name, value); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	setBytes(req, b.Bytes())
	req.Header.Set("Content-Type", w.FormDataContentType())
	t.uploaded = req.ContentLength
	return nil
}
