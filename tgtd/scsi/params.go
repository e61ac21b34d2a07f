package scsi

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// Errors of Update.
var (
	ErrUnknownParam   = errors.New("unknown parameter of a logical unit")
	ErrInvalidParam   = errors.New("invalid value of a logical unit parameter")
	ErrPreventRemoval = errors.New("this device has Prevent Removal set")
)

// Update sets parameters as `tgtadm --op update --mode logicalunit --params` gives them: `name=value,…`,
// without quoting, done from left to right. A bad one does not keep the others from being done. The
// result is that of the last parameter that can fail, as in the reference: a good `online=` hides an
// earlier error, a good `removable=` does not. Errors wrap ErrUnknownParam, ErrInvalidParam or
// ErrPreventRemoval.
// Update also looks whether the medium has grown. It returns after a medium given by `path=` has been opened, which may take as long as the store does.
func (u *Unit) Update(params string) error {
	u.update.Lock()
	defer u.update.Unlock()
	if u.changer != nil {
		return u.updateChanger(params)
	}
	var result error
	for token := range strings.SplitSeq(params, ",") {
		if token == "" {
			continue
		}
		name, value, _ := strings.Cut(token, "=")
		fails, err := u.set(name, value)
		if fails {
			result = err
		}
	}
	u.Resized() // an administrator who has made the medium larger says so by any update
	return result
}

// set does one parameter. fails says whether the outcome counts as the result of the request.
func (u *Unit) set(name, value string) (fails bool, err error) {
	setting, known := settings[name]
	if !known {
		return true, fmt.Errorf("logical unit %d: %w: %q", u.lun, ErrUnknownParam, name)
	}
	if value == "" {
		return true, fmt.Errorf("logical unit %d: %w: %s has none", u.lun, ErrInvalidParam, name)
	}
	if setting.simple != nil {
		u.change(func(a *attributes) { setting.simple(a, value) })
		return false, nil
	}
	if err := setting.fallible(u, value); err != nil {
		return true, fmt.Errorf("logical unit %d: set %s=%s: %w", u.lun, name, value, err)
	}
	return true, nil
}

// setting is a parameter; one of its functions is set.
type setting struct {
	simple   func(*attributes, string)
	fallible func(*Unit, string) error
}

// settings are the parameters of `tgtadm --params`. Numbers are read as C's atoi does: `yes` is 0.
var settings = map[string]setting{
	"vendor_id":   {simple: func(a *attributes, v string) { a.vendor = cut(v, 8) }},
	"product_id":  {simple: func(a *attributes, v string) { a.product = cut(v, 16) }},
	"product_rev": {simple: func(a *attributes, v string) { a.revision = cut(v, 4) }},
	"scsi_id":     {simple: func(a *attributes, v string) { a.scsiID = cut(v, 36) }},
	"scsi_sn":     {simple: func(a *attributes, v string) { a.scsiSN = cut(v, 36) }},
	"removable":   {simple: func(a *attributes, v string) { a.removable = atoi(v) != 0 }},
	"readonly":    {simple: func(a *attributes, v string) { a.readOnly = atoi(v) != 0 }},
	"sense_format": {simple: func(a *attributes, v string) {
		a.descriptorSense = atoi(v) != 0
	}},
	"thin_provisioning": {simple: func(a *attributes, v string) { a.thin = atoi(v) != 0 }},
	"rotation_rate":     {simple: func(a *attributes, v string) { a.rotationRate = uint16(atoi(v)) }},
	"lbppbe":            {simple: func(a *attributes, v string) { a.logicalPerPhysical = int(uint8(atoi(v))) }},
	"la_lba":            {simple: func(a *attributes, v string) { a.lowestAligned = uint16(atoi(v)) }},
	"optimal_xfer_gran": {simple: func(a *attributes, v string) { a.optimalGranularity = uint16(atoi(v)) }},
	"optimal_xfer_len":  {simple: func(a *attributes, v string) { a.optimalLength = uint32(atoi(v)) }},
	"alua_state":        {fallible: (*Unit).setAccess},
	"alua_group":        {simple: func(a *attributes, v string) { a.portGroup = uint16(atoi(v)) }},
	"online":            {fallible: (*Unit).setOnline},
	"path":              {fallible: (*Unit).setPath},
	"mode_page":         {fallible: (*Unit).setModePage},
	"bsopts":            {fallible: refused},
	"bsoflags":          {fallible: refused},
}

// refused is a parameter that only a new unit takes.
func refused(*Unit, string) error {
	return fmt.Errorf("%w: can be given to a new unit only", ErrInvalidParam)
}

func cut(s string, n int) string { return s[:min(len(s), n)] }

// setOnline takes the medium out or puts it back in.
func (u *Unit) setOnline(value string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	online := atoi(value) != 0
	was := u.attrs.Load().online
	if !online && u.prevented() {
		return ErrPreventRemoval
	}
	u.changeLocked(func(a *attributes) { a.online = online })
	if online && !was {
		u.announceMedium(nil)
	}
	return nil
}

// setPath gives the unit another medium. It must be offline, or have none; it has none if this fails,
// and is online if it succeeds.
func (u *Unit) setPath(path string) error {
	u.mu.Lock()
	a, opener := u.attrs.Load(), u.open
	u.mu.Unlock()
	if a.online && a.path != "" {
		return fmt.Errorf("%w: the unit is online", ErrInvalidParam)
	}
	if opener == nil {
		return fmt.Errorf("%w: the unit cannot change its medium", ErrInvalidParam)
	}
	u.change(func(a *attributes) { a.path = "" })
	if err := u.replaceMedium(nil); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidParam, err)
	}
	store, err := opener(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidParam, err)
	}
	m := newMedium(store)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.medium = m
	u.changeLocked(func(a *attributes) { a.path, a.online = path, true })
	u.announceMedium(nil)
	return nil
}

// setModePage replaces or adds a mode page: `page:subpage:length:b:b:…`. Missing numbers are zero; more
// bytes than the length are an error. No bit of such a page is changeable by MODE SELECT.
func (u *Unit) setModePage(value string) error {
	fields := strings.Split(value, ":")
	number := func(i int) int64 {
		if i >= len(fields) {
			return 0
		}
		return strtol(fields[i])
	}
	code, subpage, length := number(0), number(1), number(2)
	limit := int64(math.MaxUint8)
	if subpage != 0 {
		limit = MaxModePageBytes
	}
	if code < 0 || code >= allPages || subpage < 0 || subpage >= allSubpages {
		return fmt.Errorf("%w: mode page %d/%d is out of range", ErrInvalidParam, code, subpage)
	}
	if length < 0 || length > limit {
		return fmt.Errorf("%w: mode page length %d is not in 0…%d", ErrInvalidParam, length, limit)
	}
	if int64(len(fields)-3) > length {
		return fmt.Errorf("%w: mode page has %d bytes where %d are announced",
			ErrInvalidParam, len(fields)-3, length)
	}
	body := make([]byte, length)
	for i := range body {
		body[i] = byte(number(3 + i))
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	pages := setPage(u.attrs.Load().pages, newModePage(byte(code), byte(subpage), body, nil))
	if len(pages) > MaxModePages {
		return fmt.Errorf("%w: a unit has at most %d mode pages", ErrInvalidParam, MaxModePages)
	}
	u.changeLocked(func(a *attributes) { a.pages = pages })
	u.attendOthers(nil, modeParametersChanged)
	return nil
}

// atoi reads a number as C's atoi: blanks, a sign, decimal digits; the rest is ignored, and what does not
// fit is cut to 32 bits after saturating at 64.
func atoi(s string) int32 { return int32(scan(s, 10)) }

// strtol reads a number as C's strtol with base 0: 0x… is hexadecimal, 0… octal.
func strtol(s string) int64 {
	digits := strings.TrimLeft(s, " \t\n\v\f\r")
	sign := ""
	if digits != "" && (digits[0] == '-' || digits[0] == '+') {
		sign, digits = digits[:1], digits[1:]
	}
	switch {
	case len(digits) > 2 && (digits[:2] == "0x" || digits[:2] == "0X"):
		return scan(sign+digits[2:], 16)
	case len(digits) > 1 && digits[0] == '0':
		return scan(sign+digits[1:], 8)
	}
	return scan(sign+digits, 10)
}

func scan(s string, base int64) int64 {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	negative := false
	if s != "" && (s[0] == '-' || s[0] == '+') {
		negative, s = s[0] == '-', s[1:]
	}
	var n int64
	for i := range len(s) {
		d := int64(hexDigit(s[i]))
		if d == 0 && s[i] != '0' || d >= base {
			break
		}
		if n > (math.MaxInt64-d)/base {
			if negative {
				return math.MinInt64
			}
			return math.MaxInt64
		}
		n = n*base + d
	}
	if negative {
		return -n
	}
	return n
}
