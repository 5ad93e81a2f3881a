// Package charttest has no code, only tests of the Helm chart and of what is
// rendered from it for Kustomize. It is a module of its own, so that the libraries
// of Helm and Kubernetes stay out of the worker's.
package charttest
