package lio

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzConvert: whatever the file holds, there is an error or a result in which no target is more open
// than it may be: one that asks for a secret by LIO's word has an account or is offline.
func FuzzConvert(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.json")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no samples: %v", err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Convert(bytes.NewReader(b))
		if err != nil {
			return
		}
		names := map[string]bool{}
		for _, target := range r.Config.Targets {
			if names[target.Name] {
				t.Errorf("target %q is there twice", target.Name)
			}
			names[target.Name] = true
			for _, user := range target.Accounts.Incoming {
				if a := r.Config.Account(user); a == nil || a.Secret == "" {
					t.Errorf("account %q of target %q has no secret", user, target.Name)
				}
			}
		}
	})
}

// TestNeverOpen: wherever LIO asks for a secret and none can be kept, nobody gets in without one.
func TestNeverOpen(t *testing.T) {
	for _, group := range []string{
		`"attributes":{"authentication":1,"generate_node_acls":1}`,
		`"attributes":{"authentication":1,"generate_node_acls":1},"chap_userid":"u","chap_password":"with blank"`,
		`"attributes":{"authentication":1},"node_acls":[{"node_wwn":"iqn.q:i"}]`,
		`"attributes":{"authentication":0},"node_acls":[{"node_wwn":"iqn.q:i","attributes":{"authentication":1}}]`,
	} {
		r, err := Convert(bytes.NewReader([]byte(`{"targets":[{"fabric":"iscsi","wwn":"iqn.x:y","tpgs":[{"tag":1,"enable":true,` +
			group + `}]}]}`)))
		if err != nil {
			t.Errorf("%s: %v", group, err)
			continue
		}
		if tg := r.Config.Targets[0]; !tg.Offline || len(tg.ByAddress)+len(tg.ByName) != 0 {
			t.Errorf("%s: %+v", group, tg)
		}
	}
}
