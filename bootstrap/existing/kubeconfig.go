package existing

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// ErrNoContext says that no context was named, or one that is not in the kubeconfig.
var ErrNoContext = errors.New("no such context")

// contexts lists the contexts of the learner's kubeconfig files, sorted.
func (p *Provider) contexts() ([]string, error) {
	conf, err := p.learners()
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(conf.Contexts)), nil
}

func (p *Provider) learners() (*clientcmdapi.Config, error) {
	paths, err := p.opts.Kubeconfigs()
	if err != nil {
		return nil, err
	}
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: paths}
	conf, err := rules.Load()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	return conf, nil
}

// alone makes a self-contained kubeconfig of one context of the learner's, under the name
// that clusters of ropes have. Commands that fetch credentials stay commands.
func (p *Provider) alone(context, name string) (kubeconfig []byte, server string, err error) {
	conf, err := p.learners()
	if err != nil {
		return nil, "", err
	}
	chosen, ok := conf.Contexts[context]
	if !ok {
		known := "there is none in your kubeconfig"
		if len(conf.Contexts) > 0 {
			known = "known are " + strings.Join(slices.Sorted(maps.Keys(conf.Contexts)), ", ")
		}
		if context == "" {
			return nil, "", fmt.Errorf("%w: --context has to name the cluster; %s", ErrNoContext, known)
		}
		return nil, "", fmt.Errorf("%w: %q; %s", ErrNoContext, context, known)
	}
	conf.CurrentContext = context
	if err := clientcmdapi.MinifyConfig(conf); err != nil {
		return nil, "", fmt.Errorf("context %s: %w", context, err)
	}
	if err := clientcmdapi.FlattenConfig(conf); err != nil {
		return nil, "", fmt.Errorf("context %s: %w", context, err)
	}
	ours := "ropes-" + name
	out := clientcmdapi.NewConfig()
	out.Clusters[ours] = conf.Clusters[chosen.Cluster]
	if user := conf.AuthInfos[chosen.AuthInfo]; user != nil {
		out.AuthInfos[ours] = user
	} else {
		out.AuthInfos[ours] = clientcmdapi.NewAuthInfo()
	}
	out.Contexts[ours] = &clientcmdapi.Context{Cluster: ours, AuthInfo: ours}
	out.CurrentContext = ours
	data, err := clientcmd.Write(*out)
	if err != nil {
		return nil, "", fmt.Errorf("context %s: %w", context, err)
	}
	return data, out.Clusters[ours].Server, nil
}

// renewed is r with the credentials that the learner's kubeconfig has by now, where its
// context still leads to the same cluster: those that are remembered may have expired.
func (p *Provider) renewed(name string, r record) record {
	fresh, _, err := p.alone(r.Context, name)
	if err != nil {
		return r // it is somewhere else today, or lacks a file
	}
	before, now := clusterOf(r.Kubeconfig), clusterOf(fresh)
	if before == nil || now == nil || !provesItself(before) || !provesItself(now) ||
		before.Server != now.Server || before.TLSServerName != now.TLSServerName ||
		!bytes.Equal(before.CertificateAuthorityData, now.CertificateAuthorityData) {
		return r
	}
	r.Kubeconfig = fresh
	return r
}

// clusterOf is the cluster of the current context, nil where there is none.
func clusterOf(kubeconfig []byte) *clientcmdapi.Cluster {
	conf, err := clientcmd.Load(kubeconfig)
	if err != nil || conf.Contexts[conf.CurrentContext] == nil {
		return nil
	}
	return conf.Clusters[conf.Contexts[conf.CurrentContext].Cluster]
}

// provesItself tells whether a server of another cluster could not stand in for this one.
func provesItself(c *clientcmdapi.Cluster) bool {
	return strings.HasPrefix(c.Server, "https://") && !c.InsecureSkipTLSVerify
}
