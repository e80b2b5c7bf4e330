// Package proxyproto reads and writes the header of HAProxy's PROXY protocol, versions 1 and
// 2, by which a proxy tells the next one whose connection it passes on.
//
// It knows bytes and TCP over IPv4 and IPv6. It knows no connection and no configuration.
package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Header is what a PROXY header says. Both addresses are the zero value where it names none:
// the connection then is the proxy's own.
type Header struct {
	Version             int // 1 or 2
	Source, Destination netip.AddrPort
}

// Errors of Parse.
var (
	// ErrShort says that the bytes are the beginning of a header.
	ErrShort = errors.New("proxy protocol: header is not complete")
	// ErrNone says that the bytes are not the beginning of a header.
	ErrNone = errors.New("proxy protocol: no header")
)

const (
	signature1 = "PROXY "
	signature2 = "\r\n\r\n\x00\r\nQUIT\n"
	maxLine    = 107 // of version 1, with its end
	fixed2     = 16  // bytes of version 2 before the addresses
)

// Parse reads the header that b begins with, and returns how many bytes it takes. The error
// is ErrShort, ErrNone, or says what is wrong with a header that has begun.
func Parse(b []byte) (Header, int, error) {
	switch {
	case bytes.HasPrefix(b, []byte(signature2)):
		return parse2(b)
	case bytes.HasPrefix(b, []byte(signature1)):
		return parse1(b)
	case strings.HasPrefix(signature2, string(b)) || strings.HasPrefix(signature1, string(b)):
		return Header{}, 0, ErrShort
	default:
		return Header{}, 0, ErrNone
	}
}

func parse1(b []byte) (Header, int, error) {
	h := Header{Version: 1}
	end := bytes.Index(b[:min(len(b), maxLine)], []byte("\r\n"))
	if end < 0 {
		if len(b) >= maxLine {
			return h, 0, errors.New("proxy protocol: version 1 header is too long")
		}
		return h, 0, ErrShort
	}
	line := string(b[:end])
	parts := strings.Split(line, " ")
	switch {
	case parts[1] == "UNKNOWN":
		return h, end + 2, nil
	case len(parts) != 6 || parts[1] != "TCP4" && parts[1] != "TCP6":
		return h, 0, fmt.Errorf("proxy protocol: malformed header %q", line)
	}
	for i, into := range []*netip.AddrPort{&h.Source, &h.Destination} {
		addr, aerr := netip.ParseAddr(parts[2+i])
		port, perr := strconv.ParseUint(parts[4+i], 10, 16)
		if aerr != nil || addr.Zone() != "" || perr != nil || addr.Is4() != (parts[1] == "TCP4") {
			return h, 0, fmt.Errorf("proxy protocol: malformed header %q", line)
		}
		*into = netip.AddrPortFrom(addr.Unmap(), uint16(port))
	}
	return h, end + 2, nil
}

func parse2(b []byte) (Header, int, error) {
	h := Header{Version: 2}
	if len(b) < fixed2 {
		return h, 0, ErrShort
	}
	if b[12]>>4 != 2 {
		return h, 0, fmt.Errorf("proxy protocol: version %d in a version 2 header", b[12]>>4)
	}
	n := fixed2 + int(binary.BigEndian.Uint16(b[14:]))
	if len(b) < n {
		return h, 0, ErrShort
	}
	switch command, family := b[12]&0xf, b[13]; {
	case command == 0: // LOCAL: a health check of the proxy itself
		return h, n, nil
	case command != 1:
		return h, 0, fmt.Errorf("proxy protocol: unknown command %d", command)
	case family == 0x11:
		return parseAddresses(h, b[fixed2:n], 4, n)
	case family == 0x21:
		return parseAddresses(h, b[fixed2:n], 16, n)
	case family == 0:
		return h, n, nil
	default:
		return h, 0, fmt.Errorf("proxy protocol: address family and transport %#x are not TCP over IP", family)
	}
}

// parseAddresses reads two addresses of size bytes and two ports. What follows are extensions.
func parseAddresses(h Header, b []byte, size, n int) (Header, int, error) {
	if len(b) < 2*size+4 {
		return h, 0, errors.New("proxy protocol: header is too short for its addresses")
	}
	source, _ := netip.AddrFromSlice(b[:size])
	destination, _ := netip.AddrFromSlice(b[size : 2*size])
	h.Source = netip.AddrPortFrom(source.Unmap(), binary.BigEndian.Uint16(b[2*size:]))
	h.Destination = netip.AddrPortFrom(destination.Unmap(), binary.BigEndian.Uint16(b[2*size+2:]))
	return h, n, nil
}

// Append appends the header's bytes to b. Addresses of different families, or none, make a
// header that names none.
func (h Header) Append(b []byte) []byte {
	src, dst := h.Source.Addr(), h.Destination.Addr()
	named := src.IsValid() && dst.IsValid() && src.Is4() == dst.Is4()
	if h.Version == 1 {
		if !named {
			return append(b, "PROXY UNKNOWN\r\n"...)
		}
		family := "TCP6"
		if src.Is4() {
			family = "TCP4"
		}
		return fmt.Appendf(b, "PROXY %s %s %s %d %d\r\n", family, src, dst, h.Source.Port(), h.Destination.Port())
	}
	b = append(b, signature2...)
	if !named {
		return append(b, 0x20, 0, 0, 0)
	}
	family, size := byte(0x21), 36
	if src.Is4() {
		family, size = 0x11, 12
	}
	b = append(b, 0x21, family, 0, byte(size))
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, h.Source.Port())
	return binary.BigEndian.AppendUint16(b, h.Destination.Port())
}
