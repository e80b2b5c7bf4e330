package labs

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ropes-dev/ropes/checks"
)

// decoder fills structs from YAML and collects every complaint with file and line, where
// the library would stop at the first and name Go types.
type decoder struct {
	file string
	errs []error
}

var (
	posType      = reflect.TypeFor[checks.Pos]()
	exprType     = reflect.TypeFor[checks.Expr]()
	placeType    = reflect.TypeFor[checks.Place]()
	durationType = reflect.TypeFor[time.Duration]()
)

// decode fills the struct that out points to from one YAML document.
func (d *decoder) decode(data []byte, out any) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		d.yamlError(err)
		return
	}
	if len(doc.Content) == 0 {
		d.complain(nil, "is empty")
		return
	}
	d.value(doc.Content[0], reflect.ValueOf(out).Elem(), "")
}

// yamlError turns "yaml: line 3: ..." into file:3: ...
func (d *decoder) yamlError(err error) {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if n, _ := fmt.Sscanf(msg, "line %d:", &line); n == 1 {
		_, msg, _ = strings.Cut(msg, ": ")
	}
	d.errs = append(d.errs, fmt.Errorf("%s: %s", checks.Pos{File: d.file, Line: line}, msg))
}

func (d *decoder) pos(n *yaml.Node) checks.Pos {
	if n == nil {
		return checks.Pos{File: d.file}
	}
	return checks.Pos{File: d.file, Line: n.Line}
}

func (d *decoder) complain(n *yaml.Node, format string, args ...any) {
	d.errs = append(d.errs, fmt.Errorf("%s: %w", d.pos(n), fmt.Errorf(format, args...)))
}

// value decodes n into v; path names the place in the document for complaints.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n.Tag == "!!null":
	case v.Type() == exprType:
		d.expr(n, v, path)
	case v.Type() == placeType && n.Kind == yaml.ScalarNode:
		if n.Value != "host" {
			d.complain(n, "%s: %q is not a place; write host, or {namespace, pod or selector, container}", path, n.Value)
			return
		}
		v.Set(reflect.ValueOf(checks.Place{Pos: d.pos(n), Host: true}))
	case v.Type() == durationType:
		t, err := time.ParseDuration(n.Value)
		if err != nil || n.Kind != yaml.ScalarNode {
			d.complain(n, "%s: %q is not a duration such as 3s or 700ms", path, n.Value)
			return
		}
		v.SetInt(int64(t))
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path)
	case v.Kind() == reflect.Struct:
		d.fields(n, v, path)
	case v.Kind() == reflect.Slice:
		d.list(n, v, path)
	case v.Kind() == reflect.Map && v.Type().Elem().Kind() == reflect.Interface:
		d.manifest(n, v, path)
	case v.Kind() == reflect.Map:
		d.mapping(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

func (d *decoder) expr(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.complain(n, "%s: want an expression, found a %s", path, kindName(n))
		return
	}
	p := d.pos(n)
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		p.Line++ // the text begins below the | or >
	}
	v.Set(reflect.ValueOf(checks.Expr{Source: strings.TrimSpace(n.Value), Pos: p}))
}

// fields decodes a mapping into a struct by its yaml tags.
func (d *decoder) fields(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.complain(n, "%s: want a mapping, found a %s", orTop(path), kindName(n))
		return
	}
	names := map[string]int{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Type == posType {
			v.Field(i).Set(reflect.ValueOf(d.pos(n)))
		} else if tag := f.Tag.Get("yaml"); tag != "" && tag != "-" {
			names[tag] = i
		}
	}
	d.pairs(n, path, func(key, val *yaml.Node) {
		i, ok := names[key.Value]
		if !ok {
			d.complain(key, "%s: unknown field %q; known are %s", orTop(path), key.Value, keys(names))
			return
		}
		d.value(val, v.Field(i), join(path, key.Value))
	})
}

// pairs calls fn for each key of a mapping and complains of keys that come twice.
func (d *decoder) pairs(n *yaml.Node, path string, fn func(key, val *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if line, twice := seen[key.Value]; twice {
			d.complain(key, "%s: %q is already given in line %d", orTop(path), key.Value, line)
			continue
		}
		seen[key.Value] = key.Line
		fn(key, n.Content[i+1])
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.complain(n, "%s: want a mapping, found a %s", path, kindName(n))
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	d.pairs(n, path, func(key, val *yaml.Node) {
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(val, e, join(path, key.Value))
		v.SetMapIndex(reflect.ValueOf(key.Value), e)
	})
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.complain(n, "%s: want a list, found a %s", path, kindName(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, c := range n.Content {
		d.value(c, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.complain(n, "%s: want a %s, found a %s", path, v.Kind(), kindName(n))
		return
	}
	if v.Kind() == reflect.String && n.Tag != "!!str" {
		d.complain(n, "%s: want a string, found %s; put it in quotes", path, n.Value)
		return
	}
	if err := n.Decode(v.Addr().Interface()); err != nil {
		d.complain(n, "%s: %q is not a %s", path, n.Value, v.Kind())
		return
	}
	if v.Kind() == reflect.String {
		v.SetString(strings.TrimSpace(v.String()))
	}
}

// manifest decodes free-form YAML into the types that API objects are made of.
func (d *decoder) manifest(n *yaml.Node, v reflect.Value, path string) {
	var m map[string]any
	if err := n.Decode(&m); err != nil {
		d.complain(n, "%s: not a manifest: %w", path, err)
		return
	}
	out, err := plain(m)
	if err != nil {
		d.complain(n, "%s: %w", path, err)
		return
	}
	v.Set(reflect.ValueOf(out))
}

// plain turns what YAML gives into what JSON has: int64 for integers, string keys only.
func plain(v any) (any, error) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			p, err := plain(e)
			if err != nil {
				return nil, err
			}
			v[k] = p
		}
		return v, nil
	case []any:
		for i, e := range v {
			p, err := plain(e)
			if err != nil {
				return nil, err
			}
			v[i] = p
		}
		return v, nil
	case int:
		return int64(v), nil
	case nil, string, bool, int64, float64:
		return v, nil
	case time.Time:
		return nil, errors.New("a date without quotes")
	}
	return nil, fmt.Errorf("a %T has no place in a manifest", v)
}

func keys(m map[string]int) string {
	var ks []string
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return strings.Join(ks, ", ")
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func orTop(path string) string {
	if path == "" {
		return "top level"
	}
	return path
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "mapping"
	case yaml.SequenceNode:
		return "list"
	}
	return "scalar"
}
