//go:build tools

// SPDX-License-Identifier: Apache-2.0

package main

// What is built from this module by name only: go.mod keeps its version and
// all that it needs.
import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "k8s.io/kubernetes/test/images/agnhost"
	_ "k8s.io/kubernetes/test/images/regression-issue-74839"
)
