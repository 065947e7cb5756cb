"""A method as small as can be, added from outside the package: 21 coloured dots, whose 2D noise is learned."""
