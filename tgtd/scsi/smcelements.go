package scsi

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// MaxElements bounds the elements of a changer; parameters that would make more are refused with
// ErrInvalidParam.
const MaxElements = 4096

// elementKind is an ELEMENT TYPE CODE (SMC-3).
type elementKind byte

// The types of elements.
const (
	transportElement elementKind = 1 + iota
	storageElement
	exchangeElement // import/export
	driveElement    // data transfer
)

// element is a place in a changer.
type element struct {
	kind         elementKind
	address      uint16
	full         bool
	barcode, tag string
	sides        int
	source       uint16 // where the cartridge was before
	hasSource    bool
	linked       bool // a drive that is a tape unit
	tid          int
	lun          uint64
}

// empty forgets the cartridge.
func (e *element) empty() {
	*e = element{kind: e.kind, address: e.address, linked: e.linked, tid: e.tid, lun: e.lun}
}

// changer is what a media changer consists of.
type changer struct {
	peer func(tid int, lun uint64) *Unit
	log  *slog.Logger

	mu       sync.Mutex // held while a cartridge moves
	home     string     // folder of the cartridges
	elements []element  // by address
}

// find returns the element at an address, or nil. mu is held.
func (c *changer) find(address uint16) *element {
	i, found := slices.BinarySearchFunc(c.elements, address, func(e element, a uint16) int {
		return cmp.Compare(e.address, a)
	})
	if !found {
		return nil
	}
	return &c.elements[i]
}

// isTransport says whether an address is that of a transport; 0 means the first. mu is held.
func (c *changer) isTransport(address uint16) bool {
	if e := c.find(address); e != nil {
		return e.kind == transportElement
	}
	return address == 0
}

// snapshot copies the elements.
func (c *changer) snapshot() []element {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.elements)
}

// elementParams are the parameters of one request that belong together.
type elementParams struct {
	given map[string]string
	any   bool
}

// elementNames are the parameters of a changer, besides those of every unit.
var elementNames = [...]string{
	"media_home", "element_type", "start_address", "quantity", "address", "barcode", "sides", "volume_tag",
	"clear_slot", "tid", "lun", "dump",
}

// updateChanger is Update for a changer: the parameters of elements belong together whatever their order,
// the others are done one by one as for every unit.
func (u *Unit) updateChanger(params string) error {
	p := elementParams{given: map[string]string{}}
	var result error
	for token := range strings.SplitSeq(params, ",") {
		name, value, _ := strings.Cut(token, "=")
		switch {
		case token == "":
		case !slices.Contains(elementNames[:], name):
			if fails, err := u.set(name, value); fails {
				result = err
			}
		case value == "":
			result = fmt.Errorf("logical unit %d: %w: %s has none", u.lun, ErrInvalidParam, name)
		default:
			p.given[name], p.any = value, true
		}
	}
	if p.any {
		if err := u.setElements(&p); err != nil {
			return fmt.Errorf("logical unit %d: %w", u.lun, err)
		}
	}
	return result
}

// has says whether a parameter was given.
func (p *elementParams) has(name string) bool {
	_, ok := p.given[name]
	return ok
}

// number reads a parameter that is a number.
func (p *elementParams) number(name string, low, high int64) (int64, error) {
	n := int64(atoi(p.given[name]))
	if n < low || n > high {
		return 0, fmt.Errorf("%w: %s=%.40s is not in %d…%d", ErrInvalidParam, name, p.given[name], low, high)
	}
	return n, nil
}

// setElements does what the parameters of elements ask for.
func (u *Unit) setElements(p *elementParams) error {
	c := u.changer
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.has("media_home") {
		c.home = p.given["media_home"]
	}
	if p.has("element_type") {
		kind, err := p.number("element_type", int64(transportElement), int64(driveElement))
		if err != nil {
			return err
		}
		switch {
		case p.has("start_address") && p.has("quantity"):
			err = c.add(elementKind(kind), p)
		case p.has("address"):
			err = c.change(elementKind(kind), p)
		default:
			err = fmt.Errorf("%w: neither start_address and quantity nor address", ErrInvalidParam)
		}
		if err != nil {
			return err
		}
		u.change(func(a *attributes) {
			a.pages = setPage(a.pages, newModePage(elementAddressPage, 0, c.addresses(), nil))
			a.pages = setPage(a.pages, newModePage(transportPage, 0, make([]byte, max(2, 2*c.count(transportElement))), nil))
		})
	} else if !p.has("media_home") && !p.has("dump") {
		return fmt.Errorf("%w: no element_type", ErrInvalidParam)
	}
	if p.has("dump") {
		c.dump(u)
	}
	return nil
}

// add makes elements. mu is held.
func (c *changer) add(kind elementKind, p *elementParams) error {
	start, err := p.number("start_address", 0, 0xffff)
	if err != nil {
		return err
	}
	quantity, err := p.number("quantity", 1, 0x10000-start)
	if err != nil {
		return err
	}
	if int64(len(c.elements))+quantity > MaxElements {
		return fmt.Errorf("%w: a changer has at most %d elements", ErrInvalidParam, MaxElements)
	}
	for a := start; a < start+quantity; a++ {
		if c.find(uint16(a)) != nil {
			return fmt.Errorf("%w: there is an element at %d", ErrInvalidParam, a)
		}
	}
	for a := start; a < start+quantity; a++ {
		c.elements = append(c.elements, element{kind: kind, address: uint16(a)})
	}
	slices.SortFunc(c.elements, func(a, b element) int { return cmp.Compare(a.address, b.address) })
	return nil
}

// change fills, clears or links one element. mu is held.
func (c *changer) change(kind elementKind, p *elementParams) error {
	address, err := p.number("address", 0, 0xffff)
	if err != nil {
		return err
	}
	e := c.find(uint16(address))
	if e == nil || e.kind != kind {
		return fmt.Errorf("%w: no element of type %d at %d", ErrInvalidParam, kind, address)
	}
	switch {
	case p.has("clear_slot"):
		e.empty()
	case p.has("barcode"):
		return e.fill(p)
	case p.has("tid") && p.has("lun"):
		if kind != driveElement {
			return fmt.Errorf("%w: the element at %d is no drive", ErrInvalidParam, address)
		}
		tid, err := p.number("tid", 1, 1<<31-1)
		if err != nil {
			return err
		}
		lun, err := p.number("lun", 1, 1<<31-1)
		if err != nil {
			return err
		}
		e.linked, e.tid, e.lun = true, int(tid), uint64(lun)
	default:
		return fmt.Errorf("%w: none of barcode, clear_slot, tid and lun for the element at %d", ErrInvalidParam, address)
	}
	return nil
}

// fill puts a cartridge into an element.
func (e *element) fill(p *elementParams) error {
	barcode := p.given["barcode"]
	if strings.ContainsAny(barcode, "/\x00") || barcode == "." || barcode == ".." || len(barcode) > 32 {
		return fmt.Errorf("%w: the barcode %.40q is no file of the media home", ErrInvalidParam, barcode)
	}
	if e.kind != storageElement && e.kind != exchangeElement {
		return fmt.Errorf("%w: the element at %d is filled by moving a cartridge there", ErrInvalidParam, e.address)
	}
	sides := int64(1)
	if p.has("sides") {
		var err error
		if sides, err = p.number("sides", 1, 2); err != nil {
			return err
		}
	}
	e.empty()
	e.full, e.barcode, e.tag, e.sides = true, barcode, p.given["volume_tag"], int(sides)
	return nil
}

// addresses is the body of the element address assignment page (SMC-3): first address and number of transports,
// storage, import/export and drives. mu is held.
func (c *changer) addresses() []byte {
	b := make([]byte, 0, 18)
	for kind := transportElement; kind <= driveElement; kind++ {
		var first uint16
		if i := slices.IndexFunc(c.elements, func(e element) bool { return e.kind == kind }); i >= 0 {
			first = c.elements[i].address
		}
		b = binary.BigEndian.AppendUint16(b, first)
		b = binary.BigEndian.AppendUint16(b, uint16(c.count(kind)))
	}
	return append(b, 0, 0)
}

func (c *changer) count(kind elementKind) int {
	n := 0
	for i := range c.elements {
		if c.elements[i].kind == kind {
			n++
		}
	}
	return n
}

// dump writes the elements to the daemon's log. mu is held.
func (c *changer) dump(u *Unit) {
	if c.log == nil {
		return
	}
	for i := range c.elements {
		e := &c.elements[i]
		c.log.Info("changer element", "tid", u.tid, "lun", uint64(u.lun), "type", int(e.kind), "address", e.address,
			"full", e.full, "barcode", e.barcode, "volume_tag", e.tag, "sides", e.sides,
			"drive_tid", e.tid, "drive_lun", e.lun)
	}
}
