package detail

import (
	"fmt"
	"slices"
	"testing"
)

func TestUpdate(t *testing.T) {
	u := Unit{Path: "/old"}
	for _, list := range []string{"vendor_id=A,product_id=B", "online=0", "path=/new,", "vendor_id=C", "mode_page=1:0:2:1:1",
		"mode_page=1:1:2:1:1", "mode_page=1:0:2:3:3", "element_type=2,address=1,barcode=X",
		"element_type=2,address=2,barcode=Y", "dump=1", ""} {
		u.Update(list)
	}
	want := []string{"product_id=B", "vendor_id=C", "mode_page=1:1:2:1:1", "mode_page=1:0:2:3:3",
		"element_type=2,address=1,barcode=X", "element_type=2,address=2,barcode=Y"}
	if u.Path != "/new" || !slices.Equal(u.Params, want) || u.Unsure {
		t.Errorf("%+v, want %q", u, want)
	}
	empty := Unit{}
	for _, list := range []string{"path=/a", "online=0", "path=/b"} {
		empty.Update(list)
	}
	if empty.Path != "" || !slices.Equal(empty.Params, []string{"path=/b"}) {
		t.Errorf("a unit made without a medium: %+v", empty)
	}
	for i := range maxParams {
		u.Update(fmt.Sprintf("mode_page=%d:7:0", i))
	}
	if len(u.Params) != maxParams || !u.Unsure {
		t.Errorf("%d parameters, unsure %v", len(u.Params), u.Unsure)
	}
}
