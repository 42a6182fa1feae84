"""The architectures, one file each; the file's name is the architecture's name everywhere.

To add one, write a file with

* one subclass of `SAE`: formula, parameters, how it is saved where that differs from its own layout;
* `LABEL`: its name in figures;
* `PENALTIES`: the sparsity penalties that it admits (keys of `config.objectives.PENALTIES`), its default first; empty where k
  sets the sparsity;
* `class Options(Frozen)`: its own keys of the `training` block;
* where it has such options: `INITIAL`, those that only the initialisation reads; `KEPT`, those that a run which continues
  another takes from it; `ADDS_ERROR`, those that add a term with the reconstruction error;
* `PLACE`, where it is not to come last, by its name, in lists and figures: a number, smaller ones first;
* `SAVED_AS`, where a trained SAE is saved as another architecture: that one.

The constants and `Options` are also read without importing the file (`config.architectures`): they use nothing but literals,
`typing`, `pydantic` and `Frozen`.
"""
