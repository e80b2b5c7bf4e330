package curl

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// jsonType is what --json sends and accepts.
const jsonType = "application/json"

// options are what the command line asks for.
type options struct {
	urls, outputs                     []string
	remoteName                        bool
	method                            string
	headers                           []string
	data                              *bytes.Buffer // nil: no body
	contentType                       string
	get, head, include                bool
	form                              []string
	upload                            string
	user, bearer, agent, referer      string
	cookie, rangeOf                   string
	silent, showError, verbose        bool
	writeOut, dumpHeader              string
	fail, failWithBody                bool
	follow                            bool
	maxRedirects                      int
	maxTime, connectTimeout           time.Duration
	retry                             int
	retryDelay                        time.Duration
	retryAllErrors, retryRefused      bool
	resolve, connectTo                []string
	unixSocket                        string
	ipv4, ipv6                        bool
	insecure                          bool
	cacert, cert, key                 string
	tlsMin, tlsMax                    uint16
	http11, http2, prior              bool
	compressed, pathAsIs, showVersion bool
}

// parse reads the command line, and the files that its @ name.
func parse(call *applet.Call) (*options, error) {
	o := &options{maxRedirects: 50, agent: version, tlsMin: tls.VersionTLS12}
	var opts applet.Options
	o.requestOptions(&opts, call)
	o.outputOptions(&opts)
	o.networkOptions(&opts)
	operands, err := opts.Parse(call.Args)
	if err != nil {
		return nil, err
	}
	o.urls = append(o.urls, operands...)
	if o.data != nil && o.form != nil {
		return nil, errors.New("-d and -F do not go together")
	}
	if o.head && o.data != nil && !o.get {
		return nil, errors.New("-I and -d do not go together; -G puts the data into the URL")
	}
	if strings.HasPrefix(o.writeOut, "@") {
		b, err := readFile(call, o.writeOut[1:])
		if err != nil {
			return nil, err
		}
		o.writeOut = string(b)
	}
	return o, nil
}

func (o *options) requestOptions(opts *applet.Options, call *applet.Call) {
	opts.Strings(&o.urls, "url")
	opts.String(&o.method, "X request")
	opts.Strings(&o.headers, "H header")
	const urlencoded = "application/x-www-form-urlencoded"
	add := func(joint, contentType string, b []byte) {
		if o.data == nil {
			o.data = &bytes.Buffer{}
		} else {
			o.data.WriteString(joint)
		}
		o.contentType = contentType
		o.data.Write(b)
	}
	fileOr := func(v string, binary bool) ([]byte, error) {
		name, isFile := strings.CutPrefix(v, "@")
		if !isFile {
			return []byte(v), nil
		}
		b, err := readFile(call, name)
		if !binary {
			b = bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r"), nil), []byte("\n"), nil)
		}
		return b, err
	}
	opts.Value("d data data-ascii", func(v string) error {
		b, err := fileOr(v, false)
		add("&", urlencoded, b)
		return err
	})
	opts.Value("data-binary", func(v string) error {
		b, err := fileOr(v, true)
		add("&", urlencoded, b)
		return err
	})
	opts.Value("data-raw", func(v string) error { add("&", urlencoded, []byte(v)); return nil })
	opts.Value("data-urlencode", func(v string) error {
		b, err := urlEncoded(call, v)
		add("&", urlencoded, []byte(b))
		return err
	})
	opts.Value("json", func(v string) error {
		b, err := fileOr(v, true)
		add("", jsonType, b)
		return err
	})
	opts.Bool(&o.get, "G get")
	opts.Bool(&o.head, "I head")
	opts.Strings(&o.form, "F form")
	opts.String(&o.upload, "T upload-file")
	opts.String(&o.user, "u user")
	opts.String(&o.bearer, "oauth2-bearer")
	opts.String(&o.agent, "A user-agent")
	opts.String(&o.referer, "e referer")
	opts.String(&o.rangeOf, "r range")
	opts.Value("b cookie", func(v string) error {
		if v != "" && !strings.Contains(v, "=") {
			return errors.New("cookie files are not supported; give NAME=VALUE")
		}
		o.cookie = v
		return nil
	})
	opts.Bool(&o.compressed, "compressed")
	opts.Bool(&o.pathAsIs, "path-as-is")
}

func (o *options) outputOptions(opts *applet.Options) {
	opts.Bool(&o.silent, "s silent")
	opts.Bool(&o.showError, "S show-error")
	opts.Bool(&o.verbose, "v verbose")
	opts.Bool(&o.include, "i include show-headers")
	opts.Strings(&o.outputs, "o output")
	opts.Bool(&o.remoteName, "O remote-name")
	opts.String(&o.writeOut, "w write-out")
	opts.String(&o.dumpHeader, "D dump-header")
	opts.Bool(&o.fail, "f fail")
	opts.Bool(&o.failWithBody, "fail-with-body")
	opts.Bool(&o.showVersion, "V version")
	opts.Ignore("N no-buffer q disable g globoff # progress-bar no-progress-meter")
}

func (o *options) networkOptions(opts *applet.Options) {
	opts.Bool(&o.follow, "L location")
	opts.Int(&o.maxRedirects, "max-redirs")
	seconds := func(names string, to *time.Duration) {
		opts.Value(names, func(v string) error {
			f, err := strconv.ParseFloat(v, 64)
			if err != nil || f < 0 || f > 1e9 {
				return fmt.Errorf("%q is not a number of seconds", v)
			}
			*to = time.Duration(f * float64(time.Second))
			return nil
		})
	}
	seconds("m max-time", &o.maxTime)
	seconds("connect-timeout", &o.connectTimeout)
	seconds("retry-delay", &o.retryDelay)
	opts.Int(&o.retry, "retry")
	opts.Bool(&o.retryAllErrors, "retry-all-errors")
	opts.Bool(&o.retryRefused, "retry-connrefused")
	opts.Strings(&o.resolve, "resolve")
	opts.Strings(&o.connectTo, "connect-to")
	opts.String(&o.unixSocket, "unix-socket")
	opts.Bool(&o.ipv4, "4 ipv4")
	opts.Bool(&o.ipv6, "6 ipv6")
	opts.Bool(&o.insecure, "k insecure")
	opts.String(&o.cacert, "cacert")
	opts.String(&o.cert, "E cert")
	opts.String(&o.key, "key")
	opts.Func("tlsv1.2", func() { o.tlsMin = tls.VersionTLS12 })
	opts.Func("tlsv1.3", func() { o.tlsMin = tls.VersionTLS13 })
	opts.Value("tls-max", func(v string) error {
		versions := map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}
		if o.tlsMax = versions[v]; o.tlsMax == 0 {
			return fmt.Errorf("%q is neither 1.2 nor 1.3", v)
		}
		return nil
	})
	opts.Bool(&o.http11, "http1.1")
	opts.Bool(&o.http2, "http2")
	opts.Bool(&o.prior, "http2-prior-knowledge")
}

// output is where the body of the i-th URL goes: a file, or - for standard output.
func (o *options) output(i int, rawURL string) string {
	if i < len(o.outputs) {
		return o.outputs[i]
	}
	if o.remoteName {
		if u, err := parseURL(rawURL); err == nil {
			if name := path.Base(u.Path); name != "/" && name != "." {
				return name
			}
		}
		return "curl_response"
	}
	return "-"
}

// readFile reads a file, or standard input for "-".
func readFile(call *applet.Call, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(call.In)
	}
	b, err := os.ReadFile(call.Path(name))
	if err != nil {
		return nil, &exitError{codeRead, err}
	}
	return b, nil
}

// urlEncoded reads the forms of --data-urlencode.
func urlEncoded(call *applet.Call, v string) (string, error) {
	i := strings.IndexAny(v, "=@")
	if i < 0 {
		return escape(v), nil
	}
	name, content := v[:i], v[i+1:]
	if v[i] == '@' {
		b, err := readFile(call, content)
		if err != nil {
			return "", err
		}
		content = string(b)
	}
	if name != "" {
		name += "="
	}
	return name + escape(content), nil
}

func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
