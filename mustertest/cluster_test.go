package mustertest_test

import (
	"testing"

	"muster/mustertest"
)

// What a primary committed is on its standby, which takes its place.
func TestClusterFailover(t *testing.T) {
	t.Parallel()
	primary := mustertest.NewCluster(t)
	standby, err := primary.Standby()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Remove(); err != nil {
			t.Error(err)
		}
	})
	if err := primary.Set(map[string]string{"synchronous_standby_names": "standby"}); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"CREATE TABLE a (b int)", "INSERT INTO a VALUES (7)"} {
		if _, err := primary.SQL(statement); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := standby.SQL("INSERT INTO a VALUES (8)"); err == nil {
		t.Error("a standby takes writes")
	}
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	if out, err := standby.SQL("SELECT b FROM a"); err != nil || out != "7" {
		t.Errorf("after the promotion: %q, %v", out, err)
	}
	if _, err := standby.SQL("INSERT INTO a VALUES (8)"); err != nil {
		t.Errorf("the promoted standby: %v", err)
	}
	if err := primary.Start(); err != nil {
		t.Errorf("start after a kill: %v", err)
	}
}
