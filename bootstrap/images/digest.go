package images

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/ropes-dev/ropes/bootstrap"
)

// smallLayer is the size in bytes below which a digest is not worth keeping.
const smallLayer = 1 << 20

// digestCache keeps the digests of large layers in a file. The key is the layer's
// fingerprint: all its headers and, of each file, path, size and time of change.
type digestCache struct {
	file string
	mu   sync.Mutex
}

// of returns the digest of l, from the cache where it is known there.
func (c *digestCache) of(l *layer) (v1.Hash, error) {
	if l.size < smallLayer {
		return sha(l)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.read()
	if h, ok := known[l.fingerprint]; ok {
		return h, nil
	}
	h, err := sha(l)
	if err != nil {
		return v1.Hash{}, err
	}
	known[l.fingerprint] = h
	_ = c.write(known) // a cache that cannot be written costs time, not correctness
	return h, nil
}

func sha(l *layer) (v1.Hash, error) {
	r := l.open()
	h, _, err := v1.SHA256(r)
	return h, errors.Join(err, r.Close())
}

// read returns what the file holds; nothing where it is missing or spoiled.
func (c *digestCache) read() map[string]v1.Hash {
	known := map[string]v1.Hash{}
	if b, err := os.ReadFile(c.file); err != nil || json.Unmarshal(b, &known) != nil {
		return map[string]v1.Hash{}
	}
	maps.DeleteFunc(known, func(_ string, h v1.Hash) bool { return h.Algorithm != "sha256" })
	return known
}

// write replaces the file in one step, so that a reader never sees half of it.
func (c *digestCache) write(known map[string]v1.Hash) error {
	b, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return err
	}
	return bootstrap.ReplaceFile(c.file, b, 0o600)
}
