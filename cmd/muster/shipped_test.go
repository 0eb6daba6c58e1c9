package main

import "testing"

// TestShippedExamples reads the configurations that packages bring, but not what
// they name, which is not there.
func TestShippedExamples(t *testing.T) {
	t.Parallel()
	const folder = "../../deploy/examples/"
	_, err := readMEFConfig(folder + "mef.yaml")
	must(t, err)
	_, err = readMAFConfig(folder + "maf.yaml")
	must(t, err)
	_, err = readEnroleeConfig(folder + "device.yaml")
	must(t, err)
}
