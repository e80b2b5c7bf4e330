package kind

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/images"
)

// BundleSpec says what goes into a bundle.
type BundleSpec struct {
	Image  string // of the nodes; NodeImage where empty
	Images string // registry or builtin; where empty, registry if it answers
}

// CreateBundle writes a bundle to path, whole or not at all.
func (p *Provider) CreateBundle(ctx context.Context, path string, spec BundleSpec, obs bootstrap.Observer) error {
	if err := validate(bootstrap.Spec{Name: "bundle", Images: spec.Images}); err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("create bundle: %s is a directory; name a file in it", path)
	}
	engine, err := p.detect(ctx)
	if err != nil {
		return err
	}
	if spec.Image == "" {
		spec.Image = NodeImage
	}
	if spec.Images == "" {
		spec.Images = BuiltIn
		if p.registry(ctx) == nil {
			spec.Images = FromRegistry
		}
	}
	draft := path + ".part"
	f, err := os.Create(draft)
	if err != nil {
		return fmt.Errorf("create bundle: %w", err)
	}
	defer os.Remove(draft) // gone already where all went well
	defer f.Close()
	b := &packer{Provider: p, engine: engine, file: f, spec: spec}
	b.manifest = BundleManifest{Format: bundleFormat, NodeImage: spec.Image, Images: spec.Images, Arch: runtime.GOARCH}
	steps := []bootstrap.Step{
		{Name: "node image", Do: b.nodeImage},
		{Name: "images of ropes", Do: b.ownImages},
		{Name: "images of Istio", Do: b.meshImages},
		{Name: "manifest", Do: func(context.Context, func(string)) error { return b.finish() }},
	}
	if err := bootstrap.Run(ctx, steps, true, obs); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(draft, path)
}

// packer is a bundle in the making. Headers are written after what they stand before.
type packer struct {
	*Provider
	engine   *Engine
	file     *os.File
	spec     BundleSpec
	manifest BundleManifest
	end      int64 // of what is written so far
}

const block = 512 // of tar

// put writes a member from what write produces, compressed.
func (b *packer) put(name, role string, write func(io.Writer) error) error {
	if b.end == 0 {
		b.end = block + manifestSize
	}
	start := b.end + block
	if _, err := b.file.Seek(start, io.SeekStart); err != nil {
		return err
	}
	sum := sha256.New()
	z, err := zstd.NewWriter(io.MultiWriter(b.file, sum), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	if err := errors.Join(write(z), z.Close()); err != nil {
		return err
	}
	end, err := b.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	m := Member{Name: name, Role: role, Size: end - start, SHA256: hex.EncodeToString(sum.Sum(nil))}
	if err := b.header(m.Name, m.Size, b.end); err != nil {
		return err
	}
	b.end = start + (m.Size+block-1)/block*block
	b.manifest.Members = append(b.manifest.Members, m)
	return nil
}

// header writes a tar header at a place.
func (b *packer) header(name string, size, at int64) error {
	var buf bytes.Buffer
	if err := tar.NewWriter(&buf).WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o644, Format: tar.FormatGNU}); err != nil {
		return err
	}
	if buf.Len() != block {
		return fmt.Errorf("the tar header of %s takes %d bytes", name, buf.Len())
	}
	_, err := b.file.WriteAt(buf.Bytes(), at)
	return err
}

// nodeImage saves the node image under a name made of its ID: one with a digest in its
// name would come back without.
func (b *packer) nodeImage(ctx context.Context, say func(string)) error {
	if err := b.engine.haveImage(ctx, b.spec.Image, say); err != nil {
		return err
	}
	id, err := b.engine.ImageID(ctx, b.spec.Image)
	if err != nil {
		return err
	}
	hex := strings.TrimPrefix(id, "sha256:")
	b.manifest.NodeTag = "ropes.local/kind-node:" + hex[:min(12, len(hex))]
	had, err := b.engine.ImageID(ctx, b.manifest.NodeTag)
	if err != nil {
		return err
	}
	if had == "" {
		if err := b.engine.tag(ctx, b.spec.Image, b.manifest.NodeTag); err != nil {
			return fmt.Errorf("name the node image: %w", err)
		}
		defer func() {
			_, _ = b.engine.output(context.WithoutCancel(ctx), askTimeout, "rmi", b.manifest.NodeTag) // a name too many harms nobody
		}()
	}
	say("saving " + b.spec.Image)
	return b.put("node-image.tar.zst", roleNode, func(w io.Writer) error {
		return b.engine.save(ctx, w, b.manifest.NodeTag)
	})
}

func (b *packer) ownImages(ctx context.Context, say func(string)) error {
	dir, err := b.opts.Payload(ctx, say)
	if err != nil {
		return err
	}
	catalog := images.New(dir, b.opts.Log)
	refs := wanted(catalog.Refs(), b.spec.Images)
	b.manifest.Refs = append(b.manifest.Refs, refs...)
	say("writing " + strings.Join(refs, " "))
	return b.put("ropes-images.tar.zst", roleImages, func(w io.Writer) error { return catalog.WriteArchive(ctx, w, refs...) })
}

// istioImages are those of the mesh with --images=registry.
func istioImages() []string {
	return []string{IstioHub + "/pilot:" + IstioTag, IstioHub + "/proxyv2:" + IstioTag}
}

func (b *packer) meshImages(ctx context.Context, say func(string)) error {
	if b.spec.Images != FromRegistry {
		return bootstrap.ErrSkip
	}
	for _, ref := range istioImages() {
		if err := b.engine.haveImage(ctx, ref, say); err != nil {
			return err
		}
	}
	b.manifest.Refs = append(b.manifest.Refs, istioImages()...)
	say("saving " + strings.Join(istioImages(), " "))
	return b.put("istio-images.tar.zst", roleImages, func(w io.Writer) error {
		return b.engine.save(ctx, w, istioImages()...)
	})
}

// finish writes the manifest into the room kept for it, and the end of the archive.
func (b *packer) finish() error {
	data, err := json.MarshalIndent(b.manifest, "", "  ")
	if err != nil {
		return err
	}
	if len(data) > manifestSize {
		return fmt.Errorf("the bundle's manifest takes %d bytes of %d", len(data), manifestSize)
	}
	data = append(data, bytes.Repeat([]byte{'\n'}, manifestSize-len(data))...)
	if err := b.header(manifestName, manifestSize, 0); err != nil {
		return err
	}
	if _, err := b.file.WriteAt(data, block); err != nil {
		return err
	}
	_, err = b.file.WriteAt(make([]byte, 2*block), b.end)
	return err
}
