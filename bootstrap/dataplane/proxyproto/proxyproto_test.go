package proxyproto

import (
	"errors"
	"net/netip"
	"testing"
)

var (
	a4, b4 = netip.MustParseAddrPort("192.0.2.1:4321"), netip.MustParseAddrPort("198.51.100.2:443")
	a6, b6 = netip.MustParseAddrPort("[2001:db8::1]:4321"), netip.MustParseAddrPort("[2001:db8::2]:443")
)

func TestWrittenIsRead(t *testing.T) {
	for _, version := range []int{1, 2} {
		for _, h := range []Header{
			{version, a4, b4}, {version, a6, b6}, {Version: version},
		} {
			raw := h.Append(nil)
			got, n, err := Parse(append(raw, "GET /"...))
			if err != nil || n != len(raw) || got != h {
				t.Errorf("%q: %+v, %d bytes, %v", raw, got, n, err)
			}
			for i := range len(raw) {
				if _, _, err := Parse(raw[:i]); !errors.Is(err, ErrShort) {
					t.Errorf("%d bytes of %q: %v", i, raw, err)
				}
			}
		}
		mixed := Header{version, a4, b6}
		if got, _, err := Parse(mixed.Append(nil)); err != nil || got.Source.IsValid() {
			t.Errorf("addresses of two families: %+v, %v", got, err)
		}
	}
}

func TestParse(t *testing.T) {
	const sig = signature2
	for raw, want := range map[string]struct {
		n    int
		src  string
		none bool // no header
		bad  bool
	}{
		"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nrest": {n: 33, src: "1.2.3.4:9"},
		"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n":   {n: 35},
		"PROXY TCP4 ::1 ::2 9 10\r\n":             {bad: true},
		"PROXY TCP6 ::1 ::2 9 70000\r\n":          {bad: true},
		"PROXY TCP4 1.2.3.4 5.6.7.8 9\r\n":        {bad: true},
		"PROXY TCP6 fe80::1%a fe80::2 9 10\r\n":   {bad: true},
		"PROXY UDP4 1.2.3.4 5.6.7.8 9 10\r\n":     {bad: true},
		"GET / HTTP/1.1\r\n":                      {none: true},
		"\x16\x03\x01":                            {none: true},
		sig + "\x20\x11\x00\x0c" + "123456789012": {n: 28}, // LOCAL
		sig + "\x21\x11\x00\x0f" + "\x01\x02\x03\x04\x05\x06\x07\x08\x00\x09\x00\x0a" + "tlv": {n: 31, src: "1.2.3.4:9"},
		sig + "\x21\x11\x00\x04" + "1234": {bad: true},
		sig + "\x31\x11\x00\x00":          {bad: true},
		sig + "\x22\x11\x00\x00":          {bad: true},
		sig + "\x21\x12\x00\x00":          {bad: true}, // UDP
	} {
		h, n, err := Parse([]byte(raw))
		src := ""
		if h.Source.IsValid() && err == nil {
			src = h.Source.String()
		}
		switch {
		case errors.Is(err, ErrNone) != want.none, want.bad != (err != nil && !errors.Is(err, ErrNone)), n != want.n, src != want.src:
			t.Errorf("%q: %+v, %d bytes, %v", raw, h, n, err)
		case errors.Is(err, ErrShort):
			t.Errorf("%q: is complete, but %v", raw, err)
		}
	}
	long := "PROXY TCP6 " + string(make([]byte, 100))
	if _, _, err := Parse([]byte(long)); err == nil || errors.Is(err, ErrShort) {
		t.Errorf("a line without end: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, version := range []int{1, 2} {
		f.Add(Header{version, a4, b4}.Append(nil))
		f.Add(Header{version, a6, b6}.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, n, err := Parse(b); err == nil && (n <= 0 || n > len(b) || h.Version == 0) {
			t.Errorf("%q: %+v, %d bytes", b, h, n)
		}
	})
}
