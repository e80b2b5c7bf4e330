//go:build !unix

package kind

// lock does nothing where files cannot be locked in the way of Unix: kind itself refuses
// to make a cluster twice.
func (p *Provider) lock(string) (unlock func(), err error) { return func() {}, nil }
