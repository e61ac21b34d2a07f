package pdu

// DecodeLUN turns the 8-byte form of a logical unit number (SAM-5 4.7) into the number. It knows the
// single-level forms: peripheral on bus 0, flat, and extended flat of two, four and six bytes. ok is
// false for any other form.
func DecodeLUN(raw uint64) (lun uint64, ok bool) {
	switch raw >> 62 {
	case 0: // peripheral device addressing: bus in the first byte, number in the second
		return raw >> 48, raw>>56 == 0 && raw<<16 == 0
	case 1: // flat space addressing: 14 bits
		return raw >> 48 & 0x3fff, raw<<16 == 0
	case 3: // extended: length in bits 5–4, method 2 is flat
		switch raw >> 56 {
		case 0xd2:
			return raw >> 32 & 0xffffff, raw<<32 == 0
		case 0xe2:
			return raw >> 16 & 0xffffffffff, raw<<48 == 0
		}
	}
	return 0, false
}

// EncodeLUN gives the shortest of the forms that DecodeLUN knows. ok is false for a number of more
// than 40 bits.
func EncodeLUN(lun uint64) (raw uint64, ok bool) {
	switch {
	case lun < 1<<8:
		return lun << 48, true
	case lun < 1<<14:
		return 1<<62 | lun<<48, true
	case lun < 1<<24:
		return 0xd2<<56 | lun<<32, true
	case lun < 1<<40:
		return 0xe2<<56 | lun<<16, true
	}
	return 0, false
}
