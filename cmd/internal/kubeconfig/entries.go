package kubeconfig

import (
	"errors"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// entriesOf returns, by list, the entry that the current context of conf uses, each
// under the given name.
func entriesOf(conf []byte, name string) (map[string]*yaml.Node, error) {
	doc, err := parse(conf)
	if err != nil {
		return nil, err
	}
	root := doc.Content[0]
	current := get(root, "current-context")
	if current == nil || current.Value == "" {
		return nil, errors.New("no current context")
	}
	context := named(get(root, "contexts"), current.Value)
	if context == nil {
		return nil, fmt.Errorf("no context %q", current.Value)
	}
	inner := get(context, "context")
	entries := map[string]*yaml.Node{"contexts": context}
	for key, list := range map[string]string{"cluster": "clusters", "user": "users"} {
		ref := get(inner, key)
		if ref == nil {
			return nil, fmt.Errorf("context %q names no %s", current.Value, key)
		}
		entry := named(get(root, list), ref.Value)
		if entry == nil {
			return nil, fmt.Errorf("no entry %q among %s", ref.Value, list)
		}
		entries[list] = entry
		set(inner, key, name)
	}
	for _, entry := range entries {
		set(entry, "name", name)
	}
	return entries, nil
}

// put replaces the entry called name in a list of root, or appends it.
func put(root *yaml.Node, list, name string, entry *yaml.Node) error {
	seq := get(root, list)
	switch {
	case seq == nil:
		seq = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		root.Content = append(root.Content, scalar(list), seq)
	case seq.Tag == "!!null":
		*seq = yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	case seq.Kind != yaml.SequenceNode:
		return fmt.Errorf("line %d: %s is not a list", seq.Line, list)
	}
	if len(seq.Content) == 0 {
		seq.Style = 0 // an empty list was written [], its entries need not be
	}
	at := slices.IndexFunc(seq.Content, hasName(name))
	if at < 0 {
		seq.Content = append(seq.Content, entry)
		return nil
	}
	seq.Content[at] = entry
	rest := slices.DeleteFunc(slices.Clone(seq.Content[at+1:]), hasName(name))
	seq.Content = append(seq.Content[:at+1], rest...)
	return nil
}

// removeFrom drops the entries called name, and tells whether there were any.
func removeFrom(root *yaml.Node, name string) bool {
	changed := false
	for _, list := range []string{"clusters", "contexts", "users"} {
		seq := get(root, list)
		if seq == nil || seq.Kind != yaml.SequenceNode {
			continue
		}
		n := len(seq.Content)
		seq.Content = slices.DeleteFunc(seq.Content, hasName(name))
		changed = changed || len(seq.Content) != n
		if len(seq.Content) == 0 {
			seq.Style = yaml.FlowStyle
		}
	}
	if c := get(root, "current-context"); c != nil && c.Value == name {
		set(root, "current-context", "")
		changed = true
	}
	return changed
}

func hasName(name string) func(*yaml.Node) bool {
	return func(n *yaml.Node) bool {
		v := get(n, "name")
		return v != nil && v.Value == name
	}
}

func named(seq *yaml.Node, name string) *yaml.Node {
	if seq == nil {
		return nil
	}
	if i := slices.IndexFunc(seq.Content, hasName(name)); i >= 0 {
		return seq.Content[i]
	}
	return nil
}

// get returns the value of a key of a mapping, nil where there is none.
func get(m *yaml.Node, key string) *yaml.Node {
	if m != nil && m.Kind == yaml.AliasNode {
		m = m.Alias
	}
	if m == nil || m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

func set(m *yaml.Node, key, value string) {
	v := scalar(value)
	if value == "" {
		v.Style = yaml.DoubleQuotedStyle
	}
	if old := get(m, key); old != nil {
		*old = *v
		return
	}
	m.Content = append(m.Content, scalar(key), v)
}

func setDefault(m *yaml.Node, key, value string) {
	if old := get(m, key); old == nil || old.Value == "" {
		set(m, key, value)
	}
}

func scalar(value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}
}
