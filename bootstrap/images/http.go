package images

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Handler serves the pull half of the OCI distribution API: manifests by tag and digest,
// and blobs, by GET and HEAD, blobs also in ranges.
//
// A host in the query parameter ns, as containerd gives a mirror, must be the image's own;
// without it an image is found under any host. Every image that the catalog cannot make is
// answered with 404, so that a client with another registry to ask goes there.
func (c *Catalog) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		if err := c.serve(w, r); err != nil {
			c.refuse(w, r, err)
		}
	})
}

// apiError is an error that the distribution API has a code for.
type apiError struct {
	status int
	code   string
	detail string
}

func (e *apiError) Error() string { return e.detail }

func (c *Catalog) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var api *apiError
	if !errors.As(err, &api) {
		c.log.Error("serve image", "method", r.Method, "url", r.URL.String(), "err", err)
		api = &apiError{http.StatusInternalServerError, "UNKNOWN", err.Error()}
	}
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(api.status)
	_ = json.NewEncoder(w).Encode(map[string][]item{"errors": {{api.code, api.detail}}}) // where it fails, nobody is left to tell
}

func (c *Catalog) serve(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return &apiError{http.StatusMethodNotAllowed, "UNSUPPORTED", r.Method + ": this registry is read-only"}
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok {
		return &apiError{http.StatusNotFound, "UNSUPPORTED", r.URL.Path + ": not of the distribution API"}
	}
	if rest == "" {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}") // where it fails, nobody is left to tell
		return nil
	}
	parts := strings.Split(rest, "/")
	if len(parts) < 3 {
		return &apiError{http.StatusNotFound, "UNSUPPORTED", r.URL.Path + ": not of the distribution API"}
	}
	repo, kind, ref := strings.Join(parts[:len(parts)-2], "/"), parts[len(parts)-2], parts[len(parts)-1]
	err := c.serveMade(w, r, repo, kind, ref)
	if missing := (*apiError)(nil); errors.As(err, &missing) && missing.status == http.StatusNotFound {
		return c.serveBeside(w, r, repo, kind, ref, missing)
	}
	return err
}

// serveMade answers for an image that is made of the payload.
func (c *Catalog) serveMade(w http.ResponseWriter, r *http.Request, repo, kind, ref string) error {
	recipes := c.lookup(r.URL.Query().Get("ns"), repo)
	if len(recipes) == 0 {
		return &apiError{http.StatusNotFound, "NAME_UNKNOWN", repo + ": not one of this registry's images"}
	}
	switch kind {
	case "manifests":
		return c.serveManifest(w, r, recipes, ref)
	case "blobs":
		return c.serveBlob(w, r, recipes, ref)
	}
	return &apiError{http.StatusNotFound, "UNSUPPORTED", kind + ": not offered by this registry"}
}

// serveManifest answers for a tag or a digest.
func (c *Catalog) serveManifest(w http.ResponseWriter, r *http.Request, recipes []recipe, ref string) error {
	byDigest := strings.Contains(ref, ":")
	for _, rc := range recipes {
		if _, _, tag := splitRef(rc.ref); !byDigest && tag != ref {
			continue
		}
		img, err := c.known(rc)
		if err != nil {
			return err
		}
		if img == nil || byDigest && img.digest.String() != ref {
			continue
		}
		w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
		w.Header().Set("Docker-Content-Digest", img.digest.String())
		w.Header().Set("Etag", `"`+img.digest.String()+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(img.manifest))
		return nil
	}
	return &apiError{http.StatusNotFound, "MANIFEST_UNKNOWN", ref + ": no such tag or digest here"}
}

// serveBlob answers for a config or a layer of one of the repository's images.
func (c *Catalog) serveBlob(w http.ResponseWriter, r *http.Request, recipes []recipe, digest string) error {
	for _, rc := range recipes {
		img, err := c.known(rc)
		if err != nil {
			return err
		}
		if img == nil {
			continue
		}
		b := img.blob(digest)
		if b == nil {
			continue
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Docker-Content-Digest", digest)
		w.Header().Set("Etag", `"`+digest+`"`)
		http.ServeContent(w, r, "", time.Time{}, b)
		return b.Close()
	}
	return &apiError{http.StatusNotFound, "BLOB_UNKNOWN", digest + ": no such blob here"}
}

// known is the made image, or nil where its payload program is missing: to a client
// that is the same as an image that this registry has never heard of.
func (c *Catalog) known(r recipe) (*image, error) {
	img, err := c.image(r)
	if errors.Is(err, ErrUnknown) {
		c.log.Warn("image not served", "ref", r.ref, "err", err)
		return nil, nil
	}
	return img, err
}

// blob opens the config or layer of that digest; nil where the image has none such.
func (img *image) blob(digest string) io.ReadSeekCloser {
	if img.configSum.String() == digest {
		return memory{bytes.NewReader(img.config)}
	}
	for _, l := range img.layers {
		if l.digest.String() == digest {
			return l.open()
		}
	}
	return nil
}

// memory is a blob that needs no closing.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }
