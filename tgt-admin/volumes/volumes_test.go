package volumes

import "testing"

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"1K": 1 << 10, "10g": 10 << 30, "64T": 64 << 40} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "K", "1", "0G", "+1G", "-1G", "65T", "99999999999T", "1X", "1.5G"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%s: %d", text, got)
		}
	}
}
