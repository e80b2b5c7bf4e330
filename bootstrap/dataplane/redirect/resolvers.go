package redirect

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// readResolvers returns the DNS servers that a resolv.conf names.
func readResolvers(path string) ([]netip.Addr, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(words[1])
		if err != nil {
			return nil, fmt.Errorf("%s: nameserver: %w", path, err)
		}
		out = append(out, a.WithZone(""))
	}
	return out, nil
}
