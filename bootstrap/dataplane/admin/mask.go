package admin

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// mask is a google.protobuf.FieldMask as a tree: the fields to keep, each with what to keep of it. A field without
// branches is kept whole, and so is all of a message under an empty tree.
type mask map[protoreflect.Name]mask

// parseMask reads the paths of a FieldMask in text form: proto field names joined by dots, separated by commas.
func parseMask(text string) mask {
	m := mask{}
	for path := range strings.SplitSeq(text, ",") {
		if path != "" {
			m.add(strings.Split(path, "."))
		}
	}
	return m
}

func (m mask) add(path []string) {
	for i, name := range path {
		child, known := m[protoreflect.Name(name)]
		switch {
		case known && len(child) == 0:
			return // the whole field is kept already
		case i == len(path)-1:
			m[protoreflect.Name(name)] = nil
			return
		case !known:
			child = mask{}
			m[protoreflect.Name(name)] = child
		}
		m = child
	}
}

// check tells whether every path leads to a field of d. Paths do not go on inside repeated fields, maps and scalars.
func (m mask) check(d protoreflect.MessageDescriptor) error {
	for name, child := range m {
		f := d.Fields().ByName(name)
		switch {
		case f == nil:
			return fmt.Errorf("%s has no field %s", d.FullName(), name)
		case len(child) == 0:
			continue
		case f.IsList() || f.IsMap() || f.Message() == nil:
			return fmt.Errorf("%s of %s: a mask cannot go on inside it", name, d.FullName())
		}
		if err := child.check(f.Message()); err != nil {
			return err
		}
	}
	return nil
}

// trim clears what the mask does not keep. The mask must fit the message (check).
func (m mask) trim(r protoreflect.Message) {
	if len(m) == 0 {
		return
	}
	r.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch child, kept := m[f.Name()]; {
		case !kept:
			r.Clear(f)
		case len(child) > 0:
			child.trim(v.Message())
		}
		return true
	})
}

// apply trims a whole section of the dump.
func (m mask) apply(p proto.Message) error {
	r := p.ProtoReflect()
	if err := m.check(r.Descriptor()); err != nil {
		return err
	}
	m.trim(r)
	return nil
}

// applyResource trims one element of a section. Where the element holds its resource in an Any, as a static cluster
// does, the paths below that field are about the resource in it. They reach into fields of the element itself only,
// not deeper, so the listeners in the states of a dynamic listener are kept whole or not at all.
func (m mask) applyResource(p proto.Message) error {
	r := p.ProtoReflect()
	outer := mask{}
	for name, child := range m {
		outer[name] = child
		f := r.Descriptor().Fields().ByName(name)
		if f == nil || f.IsList() || f.IsMap() || f.Message() == nil || f.Message().FullName() != "google.protobuf.Any" {
			continue
		}
		outer[name] = nil
		if !r.Has(f) || len(child) == 0 {
			continue
		}
		a := r.Get(f).Message().Interface().(*anypb.Any)
		inner, err := a.UnmarshalNew()
		if err != nil {
			return err
		}
		if err := child.apply(inner); err != nil {
			return err
		}
		if err := a.MarshalFrom(inner); err != nil {
			return err
		}
	}
	return outer.apply(p)
}
