package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// RefAnnotation, in the index of an OCI image layout, gives an image its full name,
// host/repository:tag. containerd and docker write it too.
const RefAnnotation = "io.containerd.image.name"

// Beside lets the catalog also serve the images of the OCI image layout in dir, by the
// names that RefAnnotation gives them. The directory is looked at whenever an image is asked for that
// the payload cannot make; it need not be there. Call it before the first request.
func (c *Catalog) Beside(dir string) { c.beside = dir }

// serveBeside answers for a manifest or blob of the layout. Of one that is not there it
// returns missing.
func (c *Catalog) serveBeside(w http.ResponseWriter, r *http.Request, repo, kind, ref string, missing *apiError) error {
	if c.beside == "" {
		return missing
	}
	images, err := c.besideImages(r.URL.Query().Get("ns"), repo)
	if err != nil {
		return fmt.Errorf("images in %s: %w", c.beside, err)
	}
	for _, d := range images {
		_, _, tag := splitRef(d.Annotations[RefAnnotation])
		switch {
		case kind == "manifests" && (ref == tag || ref == d.Digest.String()):
			return c.serveFile(w, r, d.Digest, string(d.MediaType), missing)
		case kind == "blobs":
			if h, err := v1.NewHash(ref); err == nil {
				return c.serveFile(w, r, h, "application/octet-stream", missing)
			}
		}
	}
	return missing
}

// besideImages are the images of the layout that a repository holds.
func (c *Catalog) besideImages(host, repo string) ([]v1.Descriptor, error) {
	data, err := os.ReadFile(filepath.Join(c.beside, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, err
	}
	var out []v1.Descriptor
	for _, d := range index.Manifests {
		name := d.Annotations[RefAnnotation]
		if !strings.Contains(name, "/") || !strings.Contains(name[strings.LastIndexByte(name, '/'):], ":") {
			continue
		}
		if h, r, _ := splitRef(name); r == repo && (host == "" || host == h) {
			out = append(out, d)
		}
	}
	return out, nil
}

func (c *Catalog) serveFile(w http.ResponseWriter, r *http.Request, h v1.Hash, mediaType string, missing *apiError) error {
	f, err := os.Open(filepath.Join(c.beside, "blobs", h.Algorithm, h.Hex))
	if errors.Is(err, fs.ErrNotExist) {
		return missing
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", h.String())
	w.Header().Set("Etag", `"`+h.String()+`"`)
	http.ServeContent(w, r, "", info.ModTime(), f)
	return nil
}
