package broker

// Respecting is respecting.
var Respecting = respecting
