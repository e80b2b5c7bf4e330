package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// WriteArchive writes the images of the given full names, or all where none is given,
// as one tar archive in OCI image layout, with the index of `docker save` beside it, as
// `ctr images import`, `kind load image-archive` and `docker load` read it. Each layer is
// in it once. The error wraps ErrUnknown for a name that the catalog cannot make.
func (c *Catalog) WriteArchive(ctx context.Context, w io.Writer, refs ...string) error {
	if len(refs) == 0 {
		refs = c.Refs()
	}
	a := archive{tw: tar.NewWriter(w), written: map[v1.Hash]bool{}}
	for _, ref := range refs {
		i := slices.IndexFunc(c.recipes, func(r recipe) bool { return r.ref == ref })
		if i < 0 {
			return fmt.Errorf("%w: %s", ErrUnknown, ref)
		}
		img, err := c.image(c.recipes[i])
		if err != nil {
			return err
		}
		if err := a.add(ctx, img); err != nil {
			return fmt.Errorf("archive %s: %w", ref, err)
		}
	}
	return a.finish()
}

// archive is an OCI image layout in the making.
type archive struct {
	tw      *tar.Writer
	written map[v1.Hash]bool
	index   []v1.Descriptor
	docker  []dockerManifest
}

// dockerManifest is an element of docker save's manifest.json.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

func (a *archive) add(ctx context.Context, img *image) error {
	blobs := append([]v1.Hash{img.configSum}, img.layerDigests()...)
	docker := dockerManifest{Config: blobPath(img.configSum), RepoTags: []string{img.ref}}
	for i, h := range blobs {
		if err := a.copyBlob(ctx, h, img.blob(h.String())); err != nil {
			return err
		}
		if i > 0 {
			docker.Layers = append(docker.Layers, blobPath(h))
		}
	}
	if err := a.member(blobPath(img.digest), img.manifest); err != nil {
		return err
	}
	_, _, tag := splitRef(img.ref)
	a.docker = append(a.docker, docker)
	a.index = append(a.index, v1.Descriptor{
		MediaType: types.OCIManifestSchema1, Size: int64(len(img.manifest)), Digest: img.digest,
		Annotations: map[string]string{"io.containerd.image.name": img.ref, "org.opencontainers.image.ref.name": tag},
	})
	return nil
}

func (img *image) layerDigests() []v1.Hash {
	hs := make([]v1.Hash, len(img.layers))
	for i, l := range img.layers {
		hs[i] = l.digest
	}
	return hs
}

// copyBlob writes a blob that is not in the archive yet, and closes it.
func (a *archive) copyBlob(ctx context.Context, h v1.Hash, blob io.ReadSeekCloser) (err error) {
	defer func() { err = errors.Join(err, blob.Close()) }()
	if a.written[h] {
		return nil
	}
	a.written[h] = true
	size, err := blob.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := blob.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := a.header(blobPath(h), size); err != nil {
		return err
	}
	_, err = io.Copy(a.tw, readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return blob.Read(p)
	}))
	return err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func (a *archive) finish() error {
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: a.index})
	if err != nil {
		return err
	}
	docker, err := json.Marshal(a.docker)
	if err != nil {
		return err
	}
	return errors.Join(
		a.member("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)),
		a.member("index.json", index),
		a.member("manifest.json", docker),
		a.tw.Close(),
	)
}

func (a *archive) member(name string, body []byte) error {
	if err := a.header(name, int64(len(body))); err != nil {
		return err
	}
	_, err := a.tw.Write(body)
	return err
}

func (a *archive) header(name string, size int64) error {
	return a.tw.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)})
}
