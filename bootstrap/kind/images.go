package kind

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/images"
)

// nodeImage sees to it that the engine has the image of the nodes, and lays the plan of
// a new cluster.
func (u *up) nodeImage(ctx context.Context, say func(string)) error {
	if !u.fresh {
		return bootstrap.ErrSkip
	}
	image := u.spec.Image
	switch {
	case u.bundle != nil && image == "":
		ref, err := u.bundle.loadNodeImage(ctx, u.engine, say)
		if err != nil {
			return err
		}
		image = ref
	case image == "":
		image = NodeImage
	}
	if err := u.engine.haveImage(ctx, image, say); err != nil {
		return err
	}
	if err := u.chooseImages(ctx, say); err != nil {
		return err
	}
	return u.plan(say, image)
}

// chooseImages decides where the images of the mesh come from, where the learner has not.
func (u *up) chooseImages(ctx context.Context, say func(string)) error {
	switch {
	case u.bundle != nil:
		if u.spec.Images != "" && u.spec.Images != u.bundle.Manifest.Images {
			return fmt.Errorf("the bundle holds images from %q, not from %q; leave --images out", u.bundle.Manifest.Images, u.spec.Images)
		}
		u.spec.Images = u.bundle.Manifest.Images
	case u.spec.Images != "":
	case u.registry(ctx) == nil:
		u.spec.Images = FromRegistry
	default:
		say("the registry does not answer: using the built-in images")
		u.spec.Images = BuiltIn
	}
	return nil
}

// haveImage pulls the image where the engine does not have it.
func (e *Engine) haveImage(ctx context.Context, ref string, say func(string)) error {
	id, err := e.ImageID(ctx, ref)
	if err != nil {
		return fmt.Errorf("look for image %s: %w", ref, err)
	}
	if id != "" {
		return nil
	}
	say("pulling " + ref)
	if err := e.run(ctx, command{name: e.binary, args: []string{"pull", e.ref(ref)}, stdout: io.Discard}); err != nil {
		return fmt.Errorf("pull image %s: %w; without a network use a bundle: ropes up --bundle FILE (ropes bundle create FILE makes one)", ref, err)
	}
	return nil
}

// wanted are the images of ours that the nodes get: all under ropes.local, or all but
// the mesh's where those come from Istio's registry.
func wanted(refs []string, from string) []string {
	return slices.DeleteFunc(slices.Clone(refs), func(ref string) bool {
		return !strings.HasPrefix(ref, "ropes.local/") || from == FromRegistry && strings.HasPrefix(ref, "ropes.local/istio/")
	})
}

// archive is something that images can be loaded from, again for each node.
type archive struct {
	fingerprint string // same where the images are
	write       func(ctx context.Context, w io.Writer) error
}

// archives are what each node has to be given.
func (u *up) archives(ctx context.Context, say func(string)) ([]archive, error) {
	if u.bundle != nil {
		return u.bundle.archives(), nil
	}
	dir, err := u.opts.Payload(ctx, say)
	if err != nil {
		return nil, err
	}
	catalog := images.New(dir, u.opts.Log)
	refs := wanted(catalog.Refs(), u.rec.Images)
	return []archive{{
		fingerprint: dir + " " + strings.Join(refs, " "),
		write:       func(ctx context.Context, w io.Writer) error { return catalog.WriteArchive(ctx, w, refs...) },
	}}, nil
}

// images puts the images into each node that does not have them.
func (u *up) images(ctx context.Context, say func(string)) error {
	if u.bundle == nil && u.loadedFromBundle() {
		return bootstrap.ErrSkip // this ropes may not even have them
	}
	list, err := u.archives(ctx, say)
	if err != nil {
		return err
	}
	var prints []string
	for _, a := range list {
		prints = append(prints, a.fingerprint)
	}
	fingerprint := strings.Join(prints, " ")
	var missing []string
	for _, node := range u.rec.nodeNames() {
		if u.rec.Loaded[node] != fingerprint {
			missing = append(missing, node)
		}
	}
	if len(missing) == 0 {
		return bootstrap.ErrSkip
	}
	say("loading into " + strings.Join(missing, ", "))
	var mu sync.Mutex
	g, loading := errgroup.WithContext(ctx)
	for _, node := range missing {
		g.Go(func() error {
			for _, a := range list {
				if err := u.load1(loading, node, a); err != nil {
					return fmt.Errorf("load images into %s: %w", node, err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if u.rec.Loaded == nil {
				u.rec.Loaded = map[string]string{}
			}
			u.rec.Loaded[node] = fingerprint
			return nil
		})
	}
	return errors.Join(g.Wait(), u.save(u.rec))
}

// loadedFromBundle tells whether every node has its images from a bundle.
func (u *up) loadedFromBundle() bool {
	for _, node := range u.rec.nodeNames() {
		if !strings.HasPrefix(u.rec.Loaded[node], bundlePrint) {
			return false
		}
	}
	return true
}

// load1 streams one archive into one node.
func (u *up) load1(ctx context.Context, node string, a archive) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := a.write(ctx, w)
		w.CloseWithError(err)
		written <- err
	}()
	err := u.lib.LoadImages(ctx, u.spec.Name, node, r)
	r.CloseWithError(errors.New("the node takes no more"))
	writeErr := <-written
	if d := (*DamagedError)(nil); err == nil || errors.As(writeErr, &d) {
		return writeErr // of a stream that broke off, the node knows only that
	}
	return err
}
