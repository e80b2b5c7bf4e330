// Package images is the registry of the lab's own images: it knows which images a
// lab cluster asks for, which payload programs each is made of, and how to answer the
// OCI distribution API's pull half for them.
//
// Images of an OCI image layout beside the payload are served too. Images are made on demand from files in the payload directory and are the same,
// byte for byte, wherever they are made. Layers are plain tar, laid over the files
// as they lie on disk and never held in memory; images that use the same program share
// its layer. It does not know who pulls, where it listens, or how a payload is unpacked.
package images

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// ErrUnknown says that the catalog has no image of that name, or lacks the payload
// program that it is made of.
var ErrUnknown = errors.New("no such image")

// Catalog makes the images. It is safe for use by several goroutines.
type Catalog struct {
	payload string
	beside  string // OCI image layout, "" for none
	log     *slog.Logger
	recipes []recipe
	digests *digestCache

	mu     sync.Mutex
	layers map[string]*layer // by layerSpec.name
	images map[string]*image // by reference
}

// image is one made image.
type image struct {
	ref         string
	manifest    []byte
	digest      v1.Hash
	config      []byte
	configSum   v1.Hash
	layers      []*layer
	fingerprint string // of all files it was made from
}

// New returns the catalog of images made from the payload unpacked in payloadDir. It
// reads nothing yet. The digests of large layers are kept in the file
// payloadDir+".layers.json", so that they are computed once; where that file cannot be
// written they are computed once per Catalog.
func New(payloadDir string, log *slog.Logger) *Catalog {
	return &Catalog{
		payload: payloadDir,
		log:     log,
		recipes: recipes(),
		digests: &digestCache{file: strings.TrimRight(payloadDir, "/") + ".layers.json"},
		layers:  map[string]*layer{},
		images:  map[string]*image{},
	}
}

// Refs returns the full names of the images that the catalog can make, sorted.
func (c *Catalog) Refs() []string {
	refs := make([]string, len(c.recipes))
	for i, r := range c.recipes {
		refs[i] = r.ref
	}
	slices.Sort(refs)
	return refs
}

// lookup finds the recipes of a repository. An empty host means any.
func (c *Catalog) lookup(host, repo string) []recipe {
	var found []recipe
	for _, r := range c.recipes {
		h, name, _ := splitRef(r.ref)
		if name == repo && (host == "" || host == h) {
			found = append(found, r)
		}
	}
	return found
}

// image returns the made image, making it where that has not happened yet or where a
// payload file has changed since. Errors wrap ErrUnknown where a payload file is missing.
func (c *Catalog) image(r recipe) (*image, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var layers []*layer
	var fingerprint strings.Builder
	for _, spec := range r.layers {
		l, err := c.layer(spec)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s: %w", ErrUnknown, r.ref, err)
		}
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", r.ref, err)
		}
		layers = append(layers, l)
		fingerprint.WriteString(l.fingerprint)
	}
	if img := c.images[r.ref]; img != nil && img.fingerprint == fingerprint.String() {
		return img, nil
	}
	img, err := assemble(r, layers)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", r.ref, err)
	}
	img.fingerprint = fingerprint.String()
	c.images[r.ref] = img
	c.log.Debug("made image", "ref", r.ref, "digest", img.digest.String())
	return img, nil
}

// layer lays out the layer afresh, which only stats files, and takes its digest from
// this catalog, from the cache file, or from the contents, in this order.
func (c *Catalog) layer(spec layerSpec) (*layer, error) {
	l, err := spec.lay(c.payload)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", spec.name, err)
	}
	if old := c.layers[spec.name]; old != nil && old.fingerprint == l.fingerprint {
		return old, nil
	}
	start := time.Now()
	if l.digest, err = c.digests.of(l); err != nil {
		return nil, fmt.Errorf("layer %s: %w", spec.name, err)
	}
	c.log.Debug("laid out layer", "layer", spec.name, "bytes", l.size, "digest", l.digest.String(), "took", time.Since(start))
	c.layers[spec.name] = l
	return l, nil
}

// assemble writes the image's config and manifest.
func assemble(r recipe, layers []*layer) (*image, error) {
	cfg := v1.ConfigFile{
		Architecture: runtime.GOARCH, // the payload rides in a CLI of its own architecture
		OS:           "linux",
		Config:       r.config,
		RootFS:       v1.RootFS{Type: "layers"},
	}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	for i, l := range layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, l.digest)
		cfg.History = append(cfg.History, v1.History{CreatedBy: "ropes: " + r.layers[i].name})
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: types.OCIUncompressedLayer, Size: l.size, Digest: l.digest})
	}
	img := &image{ref: r.ref, layers: layers}
	var err error
	if img.config, err = json.Marshal(cfg); err != nil {
		return nil, err
	}
	var size int64
	if img.configSum, size, err = v1.SHA256(bytes.NewReader(img.config)); err != nil {
		return nil, err
	}
	m.Config = v1.Descriptor{MediaType: types.OCIConfigJSON, Size: size, Digest: img.configSum}
	if img.manifest, err = json.Marshal(m); err != nil {
		return nil, err
	}
	img.digest, _, err = v1.SHA256(bytes.NewReader(img.manifest))
	return img, err
}

// splitRef splits host/repo:tag. References here always have all three.
func splitRef(ref string) (host, repo, tag string) {
	host, rest, _ := strings.Cut(ref, "/")
	i := strings.LastIndexByte(rest, ':')
	return host, rest[:i], rest[i+1:]
}

// sorted returns m's keys in order.
func sorted[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
