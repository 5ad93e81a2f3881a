package provision

// Paced is paced.
var Paced = paced
