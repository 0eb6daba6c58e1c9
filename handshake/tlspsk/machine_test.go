package tlspsk

import "testing"

func TestSmoke(t *testing.T) {
	for _, s := range []Suite{TLS_PSK_WITH_AES_128_GCM_SHA256, TLS_PSK_WITH_AES_128_CBC_SHA256} {
		c, v := newSide(t, config(t, s), true), newSide(t, config(t), false)
		meet(c, v)
		if !c.done || !v.done {
			t.Fatal(c.err, v.err)
		}
	}
}
