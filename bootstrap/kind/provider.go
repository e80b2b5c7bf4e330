package kind

import (
	"context"
	"fmt"

	"github.com/ropes-dev/ropes/bootstrap"
)

// Status implements bootstrap.Provider. Of a cluster that ropes has not made it knows
// nothing. An engine that does not answer is a note, not an error: the cluster is there.
func (p *Provider) Status(ctx context.Context, name string) (bootstrap.Cluster, error) {
	rec, err := p.load(name)
	if err != nil {
		return bootstrap.Cluster{}, err
	}
	if rec == nil {
		return bootstrap.Cluster{}, fmt.Errorf("%s: %w", name, bootstrap.ErrNotFound)
	}
	c := bootstrap.Cluster{
		Name: name, Provider: p.Name(), Nodes: rec.nodeNames(), Kubeconfig: []byte(rec.Kubeconfig), Images: rec.Images,
		APIPort: rec.APIPort, HTTPPort: rec.HTTPPort, HTTPSPort: rec.HTTPSPort,
	}
	engine, err := p.detect(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return bootstrap.Cluster{}, context.Cause(ctx)
		}
		c.Notes = append(c.Notes, err.Error())
		return c, nil
	}
	if err := rec.madeWith(engine); err != nil {
		c.Notes = append(c.Notes, err.Error())
		return c, nil
	}
	have, err := engine.Nodes(ctx, name)
	if err != nil {
		c.Notes = append(c.Notes, err.Error())
		return c, nil
	}
	if !rec.complete() {
		c.Notes = append(c.Notes, "it was never finished; up makes it anew")
		return c, nil
	}
	if err := compare(rec, have, engine); err != nil {
		c.Notes = append(c.Notes, err.Error())
		return c, nil
	}
	c.Running = true
	for _, n := range have {
		c.Running = c.Running && n.Running
	}
	return c, nil
}

// Down implements bootstrap.Provider. What ropes has not made it does not touch.
func (p *Provider) Down(ctx context.Context, name string, obs bootstrap.Observer) error {
	rec, err := p.load(name)
	if err == nil && rec == nil {
		return nil
	}
	unlock, lockErr := p.lock(name)
	if lockErr != nil {
		return lockErr
	}
	defer unlock()
	return bootstrap.Run(ctx, []bootstrap.Step{{Name: "remove the node containers", Do: func(ctx context.Context, _ func(string)) error {
		engine, err := p.detect(ctx)
		if err == nil {
			err = rec.madeWith(engine)
		}
		if err != nil {
			return fmt.Errorf("cluster %q cannot be removed: %w; where its engine is gone for good, with all that it held, delete %s", name, err, p.statePath(name))
		}
		ctx, cancel := context.WithTimeout(ctx, doTimeout)
		defer cancel()
		// A container that took the place of one of ours is somebody else's.
		if err := engine.Clear(ctx, name, func(have []Container) []Container { return ours(rec, have) }); err != nil {
			return err
		}
		return p.forget(name)
	}}}, true, obs)
}

// ours are the containers that ropes has made: of a cluster that was never finished, or
// whose record is torn, all that bear its name.
func ours(rec *record, have []Container) []Container {
	if !rec.complete() {
		return have
	}
	var list []Container
	for _, c := range have {
		if rec.Containers[c.Name] == c.ID {
			list = append(list, c)
		}
	}
	return list
}

// Settle waits until the add-ons of a kind cluster are ready. On a cluster of another
// provider there is nothing to wait for.
func (p *Provider) Settle(ctx context.Context, c bootstrap.Cluster, say func(string)) error {
	if c.Provider != p.Name() {
		return bootstrap.ErrSkip
	}
	return p.settled(ctx, c.Kubeconfig, say)
}
